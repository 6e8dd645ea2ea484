"""Random pairs of overlapping patches, and a model's predictions in patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustseg.attacks.guard import Model
from robustseg.attacks.noise import NoiseSource
from robustseg.detectors.detector import predictions_of
from robustseg.detectors.errors import DetectorError

Place = tuple[int, int, int, int]
"""Place of a patch: row in the batch, top, left, side."""


class PatchPair(NamedTuple):
    """Two square patches of one image; the second is displaced by (down, right) against the first."""

    image: int
    """Row in the batch."""
    size: int
    top: int
    left: int
    down: int
    right: int

    @property
    def corners(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Top left corners of the first and the second patch."""
        return (self.top, self.left), (self.top + self.down, self.left + self.right)

    @property
    def overlap(self) -> tuple[slice, slice]:
        """Rows and columns of the image that both patches show."""
        top, left = self.corners[1]
        return slice(top, self.top + self.size), slice(left, self.left + self.size)


class PairSampler(NamedTuple):
    """The sampler of an image's pairs: ``getOverlapPatches`` of Xiao et al., ECCV 2018, Sec. 3.2.

    The displacement of a pair is uniform over ``displacement`` in both directions, and its place uniform over those at
    which both patches lie within the image.
    """

    k: int
    """Number of pairs per image."""
    sizes: tuple[int, int]
    """Smallest and largest side of a patch in pixels, ends included."""
    displacement: tuple[int, int]
    """Smallest and largest displacement in pixels, ends included."""

    def check(self, height: int, width: int) -> None:
        """Refuse sizes of images that cannot hold a pair.

        Raises:
            DetectorError: The images are too small.
        """
        largest, farthest = self.sizes[1], self.displacement[1]
        side = min(height, width)
        # No patch larger than such a displacement fits.
        moves_too_far = side - farthest <= farthest
        about = f"set patch_size to about {max(side // 2, 1)}"
        both = f"{about}, and displacement to {max(side // 4, 1)} or less."
        if largest > side:
            raise DetectorError(
                f"patch_size = {largest} is larger than the images of {height}×{width} pixels: "
                + (both if moves_too_far else f"{about}.")
            )
        if largest + farthest > side:
            raise DetectorError(
                f"patch_size = {largest} with displacement = {list(self.displacement)} takes {largest + farthest} "
                f"pixels, and the images have {height}×{width}: "
                + (both if moves_too_far else f"set patch_size to {side - farthest} or less.")
            )

    def draw(self, noise: NoiseSource, images: Tensor) -> list[PatchPair]:
        """Draw ``k`` pairs for each of B×3×H×W images, those of the first image first.

        Raises:
            DetectorError: The images are too small.
        """
        self.check(*images.shape[-2:])
        drawn = noise.uniform(torch.empty(len(images), self.k, 5, dtype=torch.float64))
        pairs = []
        for image in range(len(images)):
            for size, down, right, top, left in drawn[image].tolist():
                side = integer(size, *self.sizes)
                moved = integer(down, *self.displacement), integer(right, *self.displacement)
                free = [whole - side - by for whole, by in zip(images.shape[-2:], moved, strict=True)]
                pairs.append(PatchPair(image, side, integer(top, 0, free[0]), integer(left, 0, free[1]), *moved))
        return pairs


def integer(uniform: float, low: int, high: int) -> int:
    """Turn a number that is uniform over [0, 1) into an integer that is uniform over low..high, ends included."""
    return min(low + int(uniform * (high - low + 1)), high)


def cut(images: Tensor, places: Sequence[Place]) -> Tensor:
    """Cut patches of one size, N×…×s×s, at N places of a B×…×H×W tensor."""
    return torch.stack([images[row, ..., top : top + size, left : left + size] for row, top, left, size in places])


def predicted_patches(
    model: Model, images: Tensor, places: Sequence[Place], patches_per_forward: int | None
) -> Iterator[tuple[Tensor, int]]:
    """Predict patches of one size, each as an image of its own.

    Args:
        model: The model, see :meth:`~robustseg.detectors.detector.Detector.scores`.
        images: B×3×H×W.
        places: Places of the patches.
        patches_per_forward: Most patches in one forward; None for all, halved each time that the GPU runs out of
            memory.

    Yields:
        The n×s×s class ids of one forward's patches, in the order of the places, and the number of classes C.
    """
    at_once = patches_per_forward or len(places)
    start = 0
    while start < len(places):
        try:
            predicted = predictions_of(model, cut(images, places[start : start + at_once]))
        except torch.OutOfMemoryError:
            if at_once == 1 or patches_per_forward is not None:
                raise
            at_once = -(-at_once // 2)
            continue
        start += at_once
        yield predicted
