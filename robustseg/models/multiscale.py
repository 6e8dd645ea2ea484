"""Multi-scale inference: the mean of a model's logits over several sizes of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from robustseg.models.errors import ModelError
from robustseg.numerics.resampling import resize


class MultiScale(nn.Module):
    """A model that averages another model's logits over several sizes of the image.

    Source: the testing of PSPNet (Zhao et al., CVPR 2017) and the multi-scale evaluation of Gu et al., 2021,
    "Adversarial Examples on Segmentation Models Can be Easy to Transfer", Table 4, which scores adversarial examples at
    50, 75 and 100 % (one scale each here) and at all three. Images are resized, the model is applied, its logits are
    resized back and averaged. Logits are averaged, not probabilities, as in :class:`~robustseg.models.SlidingWindow`.
    Images are resized bilinearly without antialiasing, as by OpenCV in PSPNet's testing and by
    :class:`~robustseg.attacks.DynamicScale` within an attack, so that both use the same small image. At a scale of 0.5
    and even sides that is the mean of 2×2 pixels.

    Adversarial examples of another model can be scored on it, and it can be attacked itself, with one δ per image at
    full size through all scales. An attack counts one forward per image; the memory is that of all scales together. A
    model with a window uses it at each scale.

    Args:
        model: Maps images in [0, 1] to logits at their size, as :class:`~robustseg.models.SegmentationModel` does.
        scales: Factors for height and width; resized sides are rounded to whole pixels.
        flip: Average over the horizontally mirrored images as well.

    Raises:
        ModelError: There are no scales, or one is not a positive finite number.
    """

    def __init__(self, model: nn.Module, scales: Sequence[float] = (0.5, 0.75, 1.0), flip: bool = False) -> None:
        super().__init__()
        if not scales:
            raise ModelError("scales = []: give at least one, [1.0] for the image as it is.")
        wrong = [scale for scale in scales if not 0 < scale < math.inf]
        if wrong:
            raise ModelError(f"scales = {list(scales)}: {wrong[0]} is no factor of a size, use positive numbers.")
        self.model = model
        self.scales = tuple(scales)
        self.flip = flip

    @property
    def num_classes(self) -> int:
        """The number of classes C, which is the number of logits per pixel.

        Raises:
            ModelError: The model does not say.
        """
        value = getattr(self.model, "num_classes", None)
        if not isinstance(value, int):
            raise ModelError(f"{type(self.model).__name__} has no num_classes: wrap it in SegmentationModel.")
        return value

    def forward(self, images: Tensor) -> Tensor:
        """Compute the mean logits over the scales.

        Args:
            images: B×3×H×W float in [0, 1].

        Returns:
            B×C×H×W logits.

        Raises:
            ModelError: ``images`` are not B×3×H×W, or have a side of 0 pixels at one of the scales.
        """
        if images.dim() != 4:
            raise ModelError(f"images are {list(images.shape)}: B×3×H×W expected.")
        sizes = [self._size(scale, images) for scale in self.scales]
        parts = [_resize(self._logits(_resize(images, size)), images.shape[-2:]) for size in sizes]
        return sum(parts[1:], parts[0]) / len(parts)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        if self.flip:
            logits = (logits + self.model(images.flip(-1)).flip(-1)) / 2
        return logits

    def _size(self, scale: float, images: Tensor) -> tuple[int, int]:
        height, width = images.shape[-2:]
        size = round(height * scale), round(width * scale)
        if min(size) < 1:
            raise ModelError(
                f"scales = {list(self.scales)}: images of {height}×{width} pixels have none left at {scale}; leave "
                "that scale out or use larger images."
            )
        return size


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    if maps.shape[-2:] == tuple(size):
        return maps
    return resize(maps, size)
