"""Sliding-window inference: a large image in overlapping windows of the training crops' size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from robustseg.models.errors import ModelError

Place = tuple[slice, slice]
"""Rows and columns of an image that a window covers."""


@dataclass(frozen=True)
class SlidingWindow:
    """Overlapping windows over an image; a pixel's logits are the mean over the windows that cover it.

    Source: the testing of PSPNet (Zhao et al., CVPR 2017; hszhao/semseg ``tool/test.py``). Windows advance by 2/3 of
    their size, and the last one of a row or column is moved inwards to end at the border. Unlike there, logits are
    averaged, not probabilities, as in MMSegmentation: a loss needs logits, and a mean of saturated probabilities has no
    gradient. An image smaller than the window in one dimension has windows of its own size there. It is not padded, so
    that the network never sees a border that is not in the image.

    The whole is one differentiable function of the image: an attack has one δ per image, and its gradient is the sum
    over the windows. Attacks on single windows would not give an adversarial example of the image. An attack counts one
    forward per image for any number of windows. Attacks on the features of a layer need a layer that runs once per
    image, so they refuse windows.

    Args:
        size: (height, width) of a window in pixels, usually the training crops'.
        stride: (rows, columns) from one window to the next; by default 2/3 of ``size``, rounded up.
        chunk: Windows that go through the network at once, each for all images of a batch. It affects memory, speed and
            the rounding of figures.

    Raises:
        ModelError: A number is below 1, or ``stride`` is above ``size``, which would leave pixels without logits.
    """

    size: tuple[int, int]
    stride: tuple[int, int] | None = None
    chunk: int = 1

    def __post_init__(self) -> None:
        _check_pair("size", self.size, "such as [713, 713]")
        if self.stride is not None:
            _check_pair("stride", self.stride, "or null for 2/3 of the size")
            if any(step > side for step, side in zip(self.stride, self.size, strict=True)):
                raise ModelError(
                    f"window.stride = {list(self.stride)} is larger than window.size = {list(self.size)}, which leaves "
                    "pixels between the windows: use at most the size, or null for 2/3 of it."
                )
        if self.chunk < 1:
            raise ModelError(f"window.chunk = {self.chunk}: at least one window goes through the network at once.")

    @property
    def advance(self) -> tuple[int, int]:
        """Rows and columns from one window to the next: ``stride`` or its default."""
        if self.stride is not None:
            return self.stride
        return -(-2 * self.size[0] // 3), -(-2 * self.size[1] // 3)

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain numbers, for the record of a result."""
        return {"size": list(self.size), "stride": list(self.advance), "chunk": self.chunk}

    def covers(self, height: int, width: int) -> bool:
        """Return True if one window holds a whole image of this size."""
        return height <= self.size[0] and width <= self.size[1]

    def places(self, height: int, width: int) -> list[Place]:
        """Return the windows of an image of this size, row by row; every pixel is in at least one."""
        rows, columns = (
            [slice(start, start + min(side, length)) for start in _starts(length, side, step)]
            for length, side, step in zip((height, width), self.size, self.advance, strict=True)
        )
        return [(row, column) for row in rows for column in columns]

    def average(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Apply ``forward`` to all windows and average its logits over the windows that cover a pixel.

        With gradients on, only the images and the sum of the logits are kept: each chunk's activations are computed a
        second time in the backward (Chen et al., 2016, arXiv:1604.06174), from the same random state. The memory is
        thus that of one chunk for any size of image. The model must not change its mode before the backward.

        Args:
            forward: Maps images B×3×h×w to logits B×C×h×w; no image may influence another.
            images: B×3×H×W.

        Returns:
            B×C×H×W logits.
        """
        places = self.places(*images.shape[-2:])
        chunks = [places[start : start + self.chunk] for start in range(0, len(places), self.chunk)]
        # One chunk is not recomputed: that would save nothing. Without gradients nothing is computed twice.
        recompute = len(chunks) > 1
        total: Tensor | None = None
        for chunk in chunks:
            if recompute:
                logits = checkpoint(_on_windows, forward, images, chunk, use_reentrant=False, preserve_rng_state=True)
            else:
                logits = _on_windows(forward, images, chunk)
            if total is None:
                total = logits.new_zeros(len(images), logits.shape[1], *images.shape[-2:])
            for (rows, columns), part in zip(chunk, logits.chunk(len(chunk)), strict=True):
                total[..., rows, columns] += part
        assert total is not None  # an image has at least one window
        return total.div_(_counts(places, total))


def _on_windows(forward: Callable[[Tensor], Tensor], images: Tensor, places: Sequence[Place]) -> Tensor:
    """Compute the logits of some windows, all images of the first one first."""
    return forward(torch.cat([images[..., rows, columns] for rows, columns in places]))


def _starts(length: int, side: int, step: int) -> list[int]:
    """Return the first pixels of the windows along one dimension; the last window ends at the border."""
    last = max(0, length - side)
    return [*range(0, last, step), last]


def _counts(places: Sequence[Place], logits: Tensor) -> Tensor:
    """Count the windows that cover each pixel, H×W."""
    counts = logits.new_zeros(logits.shape[-2:])
    for rows, columns in places:
        counts[rows, columns] += 1
    return counts


def _check_pair(name: str, value: Sequence[int], example: str) -> None:
    if not isinstance(value, Sequence) or len(value) != 2 or not all(isinstance(n, int) and n >= 1 for n in value):
        shown = list(value) if isinstance(value, Sequence) else value
        raise ModelError(
            f"window.{name} = {shown}: give two whole numbers of pixels of at least 1, height and width, {example}."
        )
