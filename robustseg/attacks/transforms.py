"""Differentiable input transforms, drawn anew at each step of an attack."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.settings import Checked
from robustseg.numerics.resampling import resize


class InputTransform(Checked, ABC):
    """Base of random changes of the model's input during an attack; the perturbation is that of the original image."""

    @abstractmethod
    def __call__(self, images_adv: Tensor, targets: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        """Return transformed images (B×3×h×w, differentiable) and their targets (B×h×w)."""


@dataclass(frozen=True)
class DynamicScale(InputTransform):
    """Resizing of images and targets by s ~ U[1−λ, 1+λ] (Gu et al., 2021, "Adversarial Examples on Segmentation Models
    Can be Easy to Transfer", Eq. 5).

    Images are resized bilinearly, targets by nearest neighbour at the same sampling points, to the same integer
    size. One draw serves the batch.

    Args:
        scale_range: λ in [0, 1); 0.5 in the paper.

    Raises:
        ValueError: ``scale_range`` is outside of [0, 1).
    """

    scale_range: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.scale_range < 1:
            raise ValueError(f"scale_range = {self.scale_range} is outside of [0, 1): the paper uses 0.5.")

    def __call__(self, images_adv: Tensor, targets: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        """Resize images and targets; see the class."""
        scale = 1 + self.scale_range * (2 * noise.scalar() - 1)
        height, width = images_adv.shape[-2:]
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        if size == (height, width):
            return images_adv, targets
        return _resize(images_adv, targets, size)


@dataclass(frozen=True)
class InputDiversity(InputTransform):
    """Resizing to a random size and padding to a fixed one, with probability ``prob`` (DI², Xie et al., CVPR 2019).

    Below a ``resize_rate`` of 1 a side of n pixels becomes one of int(n·rate)..n−1 and is padded back to n; above 1 it
    becomes one of n..int(n·rate)−1 and is padded to int(n·rate). One draw serves the batch and both sides, which keep
    their proportions. The padding is black.

    Unlike in classification, the targets are resized and padded as well, by nearest neighbour at the same sampling
    points, and the padding is ignored, so that it is in no loss. Public code was written for square images, and neither
    size nor offset reaches its upper end there; here sides of different length are both scaled, and the image can lie
    at every border. Resizing is bilinear as in torchattacks; the authors' code takes the nearest neighbour, and pads
    with the middle of its pixel range, [−1, 1], which would be grey. The paper has a rate of 330/299.

    Args:
        prob: Probability in [0, 1] of a change; 0.5 in the paper.
        resize_rate: Fixed size over the image's, or the smallest size over the image's if below 1.

    Raises:
        ValueError: ``prob`` is outside of [0, 1], or ``resize_rate`` is not a positive number.
    """

    prob: float = 0.5
    resize_rate: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.prob <= 1:
            raise ValueError(f"prob = {self.prob} is outside of [0, 1]: the paper uses 0.5.")
        if not 0 < self.resize_rate < math.inf:
            raise ValueError(f"resize_rate = {self.resize_rate} is no share of a size: 0.9 or 1.1 for example.")

    def __call__(self, images_adv: Tensor, targets: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        """Resize and pad images and targets; see the class."""
        if noise.scalar() >= self.prob:
            return images_adv, targets
        ranges = [self._sizes(length) for length in images_adv.shape[-2:]]
        draw = noise.scalar()
        height, width = (small + int(draw * (large - small)) for small, large in ranges)
        spare = ranges[0][1] - height, ranges[1][1] - width
        top, left = (int(noise.scalar() * (count + 1)) for count in spare)
        padding = (left, spare[1] - left, top, spare[0] - top)
        if (height, width) != images_adv.shape[-2:]:
            images_adv, targets = _resize(images_adv, targets, (height, width))
        return F.pad(images_adv, padding), F.pad(targets, padding, value=IGNORED)

    def _sizes(self, length: int) -> tuple[int, int]:
        """Return the smallest size of a side, and the size after padding."""
        other = max(1, int(length * self.resize_rate + 1e-9))
        return min(length, other), max(length, other)


class Chain(InputTransform):
    """A sequence of transforms, each applied to the output of the one before.

    Args:
        transforms: At least one, in the order in which they are applied.

    Raises:
        ValueError: No transform.
    """

    def __init__(self, transforms: list[InputTransform]):
        if not transforms:
            raise ValueError("transforms = []: a chain has at least one transform (transform: null goes without).")
        self.transforms = tuple(transforms)

    def __call__(self, images_adv: Tensor, targets: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        """Transform images and targets; see the class."""
        for transform in self.transforms:
            images_adv, targets = transform(images_adv, targets, noise)
        return images_adv, targets

    def __repr__(self) -> str:
        return f"Chain({list(self.transforms)})"


def _resize(images_adv: Tensor, targets: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize images bilinearly and targets by nearest neighbour at the same sampling points."""
    resized = resize(images_adv, size)
    # nearest-exact samples pixel centres, as bilinear does; plain nearest is shifted by up to half a pixel.
    nearest = F.interpolate(targets.unsqueeze(1).float(), size=size, mode="nearest-exact")
    return resized, nearest.squeeze(1).to(targets.dtype)
