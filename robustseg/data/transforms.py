"""The resizing and augmentation of an image together with its mask.

Only this file uses albumentations (2.0.8 is its last MIT release), so that it can be replaced here alone.
"""

from __future__ import annotations

import os
import random

import numpy as np
from numpy.typing import NDArray

from robustseg.types import IGNORE_INDEX

# on import, albumentations looks for a newer version on the network
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2

Pixels = NDArray[np.uint8]
"""H×W×3 RGB image or H×W mask."""

IMAGENET_GREY = (124, 116, 104)
"""ImageNet's mean colour in RGB, 0 to 255; the usual normalisation maps it to zero."""


def check_size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Return ``size`` as (height, width) in pixels.

    Raises:
        ValueError: It is not a pair of positive numbers.
    """
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"{name} = {list(size)} must be two positive numbers: write [height, width] in pixels.")
    return int(size[0]), int(size[1])


class EvalTransform:
    """A resizing to a fixed size, or no change.

    Images are averaged over areas if both sides shrink, and interpolated bilinearly otherwise. Masks take the nearest
    pixel, so that no new ids appear.

    Args:
        size: (height, width) in pixels; ``None`` keeps the size.
    Raises:
        ValueError: ``size`` is not a pair of positive numbers.
    """

    def __init__(self, size: tuple[int, int] | None = None) -> None:
        self.size = None if size is None else check_size("image_size", size)

    def __call__(self, image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
        """Resize an H×W×3 image and its H×W mask."""
        if self.size is None or self.size == mask.shape:
            return image, mask
        cv2.setNumThreads(0)
        height, width = self.size
        shrinks = height < mask.shape[0] and width < mask.shape[1]
        resize = A.Resize(
            height,
            width,
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
            # INTER_NEAREST rounds down, which shifts the mask by half a pixel against the image
            mask_interpolation=cv2.INTER_NEAREST_EXACT,
        )
        result = resize(image=image, mask=mask)
        return result["image"], result["mask"]


class TrainTransform:
    """Random scale, crop, horizontal flip and colour jitter as a function of a seed.

    A scaled image that is smaller than the crop is padded at a random side, the image with ``fill`` and the mask with
    ``ignore_index``.

    Args:
        crop_size: (height, width) of the result in pixels.
        scale: Range of the resizing factor, the same for both sides; (1, 1) switches it off.
        flip: Probability of a horizontal flip.
        color: Strength of the jitter: brightness, contrast and saturation change by a factor in 1 ± color, the hue
            by ± color / 5 of a full turn. 0 switches it off.
        fill: RGB of padded image pixels, 0 to 255.
        ignore_index: Id of padded mask pixels.

    Raises:
        ValueError: An argument is outside its range.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        scale: tuple[float, float] = (0.5, 2.0),
        flip: float = 0.5,
        color: float = 0.25,
        fill: tuple[int, int, int] = IMAGENET_GREY,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        self.crop_size = check_size("crop_size", crop_size)
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale = {list(scale)} must be [min, max] with 0 < min <= max; [1, 1] switches it off.")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip = {flip} must be a probability between 0 and 1.")
        if not 0 <= color < 1:
            raise ValueError(f"color = {color} must be in [0, 1); 0 switches the colour jitter off.")
        self.scale = scale
        self.flip = flip
        self.color = color
        self.pipeline = A.Compose(self._steps(fill, ignore_index))

    def _steps(self, fill: tuple[int, int, int], ignore_index: int) -> list[A.BasicTransform]:
        height, width = self.crop_size
        steps: list[A.BasicTransform] = []
        if self.scale != (1, 1):
            steps.append(
                A.RandomScale(
                    scale_limit=(self.scale[0] - 1, self.scale[1] - 1),
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_NEAREST_EXACT,
                    area_for_downscale="image",
                    p=1.0,
                )
            )
        steps.append(
            A.RandomCrop(
                height, width, pad_if_needed=True, pad_position="random", fill=fill, fill_mask=ignore_index, p=1.0
            )
        )
        if self.flip > 0:
            steps.append(A.HorizontalFlip(p=self.flip))
        if self.color > 0:
            factor = (1 - self.color, 1 + self.color)
            hue = (-self.color / 5, self.color / 5)
            steps.append(A.ColorJitter(brightness=factor, contrast=factor, saturation=factor, hue=hue, p=1.0))
        return steps

    def __call__(self, image: Pixels, mask: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        """Augment an H×W×3 image and its H×W mask; the result depends on the arguments only.

        Args:
            image: RGB image, H×W×3.
            mask: Class ids, H×W.
            seed: Seed of the random choices, not negative.

        Returns:
            The image and the mask, both of size ``crop_size``.
        """
        # one image per worker is parallel enough, and OpenCV's own threads do not survive a fork
        cv2.setNumThreads(0)
        # not set_random_seed, which starts every step with the same seed: the flip would depend on the place of the
        # crop
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        result = self.pipeline(image=image, mask=mask)
        return result["image"], result["mask"]
