"""Differentiable input transforms that are drawn anew at each step of an attack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from robustseg.attacks.noise import NoiseSource


class InputTransform(ABC):
    """Changes what the model sees during the attack; the perturbation stays that of the untransformed image."""

    @abstractmethod
    def __call__(self, images_adv: Tensor, targets: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        """Transformed images (B×3×h×w, differentiable) and the targets that belong to them (B×h×w)."""


@dataclass(frozen=True)
class DynamicScale(InputTransform):
    """Resizes images and targets by s ~ U[1−λ, 1+λ] (Gu et al., 2021, "Adversarial Examples on Segmentation Models
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
        """Resized images and targets; see the class."""
        scale = 1 + self.scale_range * (2 * noise.scalar() - 1)
        height, width = images_adv.shape[-2:]
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        if size == (height, width):
            return images_adv, targets
        resized = F.interpolate(images_adv, size=size, mode="bilinear", align_corners=False)
        # nearest-exact samples pixel centres, as bilinear does; plain nearest is shifted by up to half a pixel.
        nearest = F.interpolate(targets.unsqueeze(1).float(), size=size, mode="nearest-exact")
        return resized, nearest.squeeze(1).to(targets.dtype)
