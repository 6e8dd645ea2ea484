"""The base class of detectors: a score per image, high for benign ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks.checks import checked_images
from robustseg.attacks.errors import AttackError
from robustseg.attacks.guard import Model, attack_mode
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.settings import Checked
from robustseg.attacks.victim import Victim
from robustseg.detectors.errors import DetectorError
from robustseg.numerics.precision import full_precision, lowered

LEFT_OUT = -1
"""Class id of pixels that are not compared; it is no valid class id."""
_STREAM = 0x5CA1E
"""Key of a detector's noise, which keeps its patches independent of those of an attack with the same seeds."""


class Detector(Checked, ABC):
    """A detector of adversarial images by the consistency of the model's predictions.

    It holds settings only; the model is passed with the images. The model is left unchanged, and the global random
    state is neither read nor changed. A score depends on the image, its id and the seeds only, not on the other images
    of the batch.

    Args:
        seed: Seed of the random numbers, in addition to the call's.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def scores(
        self, model: Model, images: Tensor, ids: Sequence[str], *, seed: int = 0, ignored: Tensor | None = None
    ) -> Tensor:
        """Compute the consistency of the model's answers to each image: the mean of its :meth:`parts`.

        Args:
            model: Maps images to logits; normalisation happens inside. A module is called in eval mode.
            images: B×3×H×W floating point in [0, 1].
            ids: B ids of the images; the random numbers are a function of them.
            seed: Seed of the run.
            ignored: B×H×W bool, pixels that are left out; None for none.

        Returns:
            B float64 in [0, 1] on the CPU: low for adversarial images.

        Raises:
            DetectorError: The images do not fit the detector or each other, or no pixel is left to compare.
        """
        return self.parts(model, images, ids, seed=seed, ignored=ignored).nanmean(1)

    def parts(
        self, model: Model, images: Tensor, ids: Sequence[str], *, seed: int = 0, ignored: Tensor | None = None
    ) -> Tensor:
        """Compute the parts whose mean is the score; arguments and errors as of :meth:`scores`.

        Returns:
            B×n float64 in [0, 1] on the CPU, NaN where a part has no pixel to compare.
        """
        images = batch_of(images, ids)
        if ignored is not None and (ignored.shape != (len(images), *images.shape[-2:]) or ignored.dtype != torch.bool):
            raise DetectorError(
                f"ignored is {ignored.dtype} {list(ignored.shape)} for images {list(images.shape)}: bool B×H×W wanted."
            )
        noise = NoiseSource.for_samples((seed, self.seed, _STREAM), ids, torch.device("cpu"))
        with asked(model) as attacked:
            found = self.consistency(attacked, images, noise, ignored).double().cpu()
        empty = found.isnan().all(1)
        if bool(empty.any()):
            lacking = [sample for sample, nothing in zip(ids, empty.tolist(), strict=True) if nothing]
            more = f" and {len(lacking) - 1} more" if lacking[1:] else ""
            raise DetectorError(
                f"image {lacking[0]}{more}: every pixel that could be compared is ignored: leave such images out."
            )
        return found

    @abstractmethod
    def consistency(self, model: Model, images: Tensor, noise: NoiseSource, ignored: Tensor | None) -> Tensor:
        """Compute the parts of the score, on checked tensors, without autograd and with the model in eval mode.

        Args:
            model: The model, see :meth:`scores`.
            images: B×3×H×W.
            noise: Noise on the CPU, by sample id.
            ignored: B×H×W bool, pixels that are left out, or None.

        Returns:
            B×n values, NaN where there is no pixel to compare.
        """

    @abstractmethod
    def check(self, height: int, width: int) -> None:
        """Refuse sizes of images that cannot be scored, without a model.

        Raises:
            DetectorError: They are too small; the message names the setting.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return all settings as plain JSON."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.describe().items() if name != "detector")
        return f"{type(self).__name__}({settings})"


def batch_of(images: Tensor, ids: Sequence[str]) -> Tensor:
    """Refuse tensors that are not a batch of images with their ids; return a copy of the images within [0, 1].

    Raises:
        DetectorError: The shape, type or number of ids is wrong, or values lie outside of [0, 1].
    """
    images = checked_images(images, DetectorError)
    if len(ids) != len(images):
        raise DetectorError(f"{len(ids)} ids for {len(images)} images: give one id per image.")
    return images


@contextmanager
def asked(model: Model) -> Iterator[Model]:
    """Yield the model in eval mode and full precision, without autograd.

    It gets copies of the images, and its answers have one form.

    Raises:
        DetectorError: The model returned no logits of the images' size, or others than on its forwards before, or
            switched on a lower precision.
    """
    try:
        with full_precision(), attack_mode(model) as attacked, torch.no_grad():
            yield Victim(attacked, 0)
            if lower := lowered():
                raise DetectorError(
                    f"the model's forward switched on {lower}, and scores are computed in float32: let it leave "
                    "torch's switches alone, or switch it off again before it returns."
                )
    except AttackError as error:
        raise DetectorError(str(error)) from error


def predictions_of(model: Model, images: Tensor) -> tuple[Tensor, int]:
    """Predict the classes of images.

    Args:
        model: The model, from :func:`asked`.
        images: B×3×H×W.

    Returns:
        B×H×W class ids, and the number of classes C.

    Raises:
        DetectorError: The model returns logits of one class only, or values that are not finite.
    """
    logits = model(images)
    if logits.shape[1] < 2:
        raise DetectorError(
            "the model has one output channel, by which no pixel can be classified: for the logit u of a model of two "
            "classes return torch.cat([torch.zeros_like(u), u], 1)."
        )
    highest, shown = logits.max(1)
    # argmax of NaN is the same class everywhere, which would look consistent.
    if not bool(highest.isfinite().all()):
        raise DetectorError(
            "the model returned logits that are not finite: it overflows or divides by zero on these images; run it in "
            "float32 and look for non-finite weights."
        )
    return shown, logits.shape[1]
