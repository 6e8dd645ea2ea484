"""What a detector is: a score per image, high for benign ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robustseg.attacks.noise import NoiseSource
from robustseg.detectors.errors import DetectorError

Model = Callable[[Tensor], Tensor]
"""B×3×H×W images in [0, 1] to B×C×H×W logits."""
_STREAM = 0x5CA1E
"""Keeps a detector's random patches apart from those of an attack with the same seeds."""


class Detector(ABC):
    """Tells adversarial images from benign ones by how consistent the model's answers are.

    Holds settings only; the model arrives with the images. Nothing of the model is changed, and the global random
    state is neither read nor moved. A score depends on the image, its id and the seeds, and on nothing else in its
    batch.

    Args:
        seed: Of the random numbers, beside that of the call.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def scores(
        self, model: Model, images: Tensor, ids: Sequence[str], *, seed: int = 0, ignored: Tensor | None = None
    ) -> Tensor:
        """Consistency of the model's answers to each image.

        Args:
            model: Maps images to logits; normalisation happens inside. A module is asked in eval mode.
            images: B×3×H×W floating point in [0, 1].
            ids: B ids of the images, which the random numbers are a function of.
            seed: Of the run.
            ignored: B×H×W bool, pixels that are left out; None for none.

        Returns:
            B float64 in [0, 1] on the CPU: low for adversarial images.

        Raises:
            DetectorError: The images do not fit the detector or each other, or no pixel is left to compare.
        """
        check_images(images, ids)
        if ignored is not None and (ignored.shape != (len(images), *images.shape[-2:]) or ignored.dtype != torch.bool):
            raise DetectorError(
                f"ignored is {ignored.dtype} {list(ignored.shape)} for images {list(images.shape)}: bool B×H×W wanted."
            )
        noise = NoiseSource.for_samples((seed, self.seed, _STREAM), ids, torch.device("cpu"))
        with torch.no_grad(), asked(model):
            found = self.consistency(model, images, noise, ignored).double().cpu()
        if bool(found.isnan().any()):
            lacking = [sample for sample, value in zip(ids, found.tolist(), strict=True) if value != value]
            more = f" and {len(lacking) - 1} more" if lacking[1:] else ""
            raise DetectorError(
                f"image {lacking[0]}{more}: every pixel that could be compared is ignored: leave such images out."
            )
        return found

    @abstractmethod
    def consistency(self, model: Model, images: Tensor, noise: NoiseSource, ignored: Tensor | None) -> Tensor:
        """The score itself, on checked tensors, without autograd and with the model in eval mode.

        Args:
            model: As in :meth:`scores`.
            images: B×3×H×W.
            noise: On the CPU, with a generator for each image.
            ignored: B×H×W bool, or None.

        Returns:
            B values, NaN for an image without a pixel to compare.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """All settings, as plain JSON."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.describe().items() if name != "detector")
        return f"{type(self).__name__}({settings})"


def check_images(images: Tensor, ids: Sequence[str]) -> None:
    """Refuse what is no batch of images with their ids.

    Raises:
        DetectorError: It is not.
    """
    if images.ndim != 4 or not images.is_floating_point() or not len(images):
        raise DetectorError(f"images are {images.dtype} {list(images.shape)}: float B×3×H×W in [0, 1] expected.")
    if len(ids) != len(images):
        raise DetectorError(f"{len(ids)} ids for {len(images)} images: give one id per image.")


@contextmanager
def asked(model: Model) -> Iterator[None]:
    """Eval mode for the modules of a model, each put back as it was."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    training = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, before in zip(modules, training, strict=True):
            module.training = before


def predictions_of(model: Model, images: Tensor) -> tuple[Tensor, int]:
    """B×H×W class ids, and C.

    Raises:
        DetectorError: The model gives something else than logits of the images' size.
    """
    logits = model(images)
    if (
        not isinstance(logits, Tensor)
        or logits.ndim != 4
        or (logits.shape[0], *logits.shape[2:]) != (images.shape[0], *images.shape[2:])
    ):
        what = f"{list(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise DetectorError(f"the model returned {what} for images {list(images.shape)}: B×C×H×W logits expected.")
    return logits.argmax(1), logits.shape[1]
