"""Scale consistency: agreement of the predictions for an image and its blurred version."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from robustseg.attacks.guard import Model
from robustseg.attacks.noise import NoiseSource
from robustseg.detectors.detector import LEFT_OUT, Detector, predictions_of
from robustseg.detectors.errors import DetectorError
from robustseg.metrics.functional import confusion_matrix, miou
from robustseg.numerics.resampling import gaussian_blur


class GaussianBlur:
    """Convolution with a Gaussian cut at four standard deviations, differentiable, with mirrored borders.

    Args:
        sigma: Standard deviation in pixels.

    Raises:
        DetectorError: ``sigma`` is not a positive number.
    """

    def __init__(self, sigma: float):
        if not 0 < sigma < math.inf:
            raise DetectorError(f"sigma = {sigma}: a positive standard deviation in pixels expected, 3 for example.")
        self.sigma = float(sigma)

    def __call__(self, images: Tensor) -> Tensor:
        """Blur B×3×H×W images.

        Raises:
            DetectorError: They are smaller than the kernel's reach.
        """
        self.check(*images.shape[-2:])
        return gaussian_blur(images, self.sigma, self._reach)

    def check(self, height: int, width: int) -> None:
        """Refuse sizes of images that are smaller than the kernel's reach.

        Raises:
            DetectorError: The images are smaller than the kernel's reach.
        """
        side = min(height, width)
        if self._reach >= side:
            raise DetectorError(
                f"sigma = {self.sigma:g} reaches {self._reach} pixels far, and the images have {height}×{width}: set "
                f"it to less than {side / 4:g}."
            )

    @property
    def _reach(self) -> int:
        return max(1, round(4 * self.sigma))

    def __repr__(self) -> str:
        return f"GaussianBlur(sigma={self.sigma:g})"


class ScaleConsistency(Detector):
    """The mIoU between a model's predictions for an image and for its blurred version.

    Source: Xiao et al., ECCV 2018, Sec. 4, where σ is 0.5, 3 and 5 for images of 2048×1024. The kernel is not
    published; ours is cut at 4σ. The mIoU is over the classes in either prediction. A score costs two forwards.

    Args:
        sigma: Standard deviation of the Gaussian in pixels.
        seed: No effect; it is here since all detectors take one.

    Raises:
        DetectorError: ``sigma`` is not a positive number.
    """

    def __init__(self, sigma: float = 3.0, seed: int = 0):
        super().__init__(seed)
        self.blur = GaussianBlur(sigma)

    def consistency(  # noqa: D102
        self, model: Model, images: Tensor, noise: NoiseSource, ignored: Tensor | None
    ) -> Tensor:
        plain, classes = predictions_of(model, images)
        blurred, _ = predictions_of(model, self.blur(images))
        if ignored is not None:
            plain = plain.masked_fill(ignored, LEFT_OUT)
        return miou(confusion_matrix(blurred, plain, classes, LEFT_OUT)).unsqueeze(1)

    def check(self, height: int, width: int) -> None:  # noqa: D102
        self.blur.check(height, width)

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {"detector": type(self).__name__, "sigma": self.blur.sigma}
