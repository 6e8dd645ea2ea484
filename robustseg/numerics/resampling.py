"""Pooling and bilinear resizing as products with constant matrices, in float32 at least.

A device's own operators add up the gradients of many cells in the type of the features, and in an order of their own:
under bfloat16 the coarsest bin of a pyramid gets a third of its gradient on CUDA, and none of the operators is
deterministic there. Sums of a matrix product are both exact and deterministic, and small ones are faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CUBIC = -0.75
"""The constant of torch's cubic convolution."""
Build = Callable[[int, int, torch.device], Tensor]
"""Function of the numbers of cells before and after that gives the weights, after × before, in float32."""


class ExactAveragePool2d(nn.AdaptiveAvgPool2d):
    """The mean of each bin, as ``nn.AdaptiveAvgPool2d``, exact and deterministic on every device.

    Shape: B×C×h×w to B×C×bins.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Average features B×C×h×w over the bins."""
        return average_pool(input, self.output_size)


def average_pool(maps: Tensor, bins: int | Sequence[int | None] | None) -> Tensor:
    """Average B×C×h×w maps over a grid of bins, as :func:`torch.nn.functional.adaptive_avg_pool2d`."""
    sides = (bins, bins) if bins is None or isinstance(bins, int) else tuple(bins)
    height, width = (old if new is None else new for old, new in zip(maps.shape[-2:], sides, strict=True))
    return _product(maps, height, width, _averages)


def spread(maps: Tensor, size: Sequence[int], align_corners: bool = False, cubic: bool = False) -> Tensor:
    """Resize B×C×h×w maps, as :func:`torch.nn.functional.interpolate`, by matrix products.

    For maps of few cells; for large ones see :func:`resize`.

    Args:
        maps: B×C×h×w.
        size: Height and width afterwards.
        align_corners: As for torch's; for bilinear weights only.
        cubic: Bicubic instead of bilinear weights.
    """
    build = _cubic if cubic else _between_corners if align_corners else _between_centres
    return _product(maps, size[0], size[1], build)


def resize(maps: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Resize B×C×h×w maps bilinearly, in float32 at least: by torch's own operator, which is faster for large maps.

    Its gradient is not deterministic on CUDA. So where deterministic algorithms are asked for, it is :func:`spread`.

    Returns:
        B×C×H×W, in the type of the maps.
    """
    if torch.are_deterministic_algorithms_enabled():
        return spread(maps, size, align_corners)
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return F.interpolate(wide, (size[0], size[1]), mode="bilinear", align_corners=align_corners).to(maps.dtype)


def _product(maps: Tensor, height: int, width: int, build: Build) -> Tensor:
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    rows = _weights(build, maps.shape[-2], height, maps).to(wide.dtype)
    columns = _weights(build, maps.shape[-1], width, maps).to(wide.dtype)
    with without_autocast(maps.device.type):
        # The order that leaves the smaller maps to the second product.
        shrinks = maps.shape[-1] > width
        result = rows @ (wide @ columns.t()) if shrinks else (rows @ wide) @ columns.t()
    return result.to(maps.dtype)


def gaussian_blur(maps: Tensor, sigma: float, reach: int) -> Tensor:
    """Convolve B×C×H×W maps with a Gaussian cut at ``reach`` cells; borders are mirrored about the outermost cell."""
    height, width = maps.shape[-2:]

    def build(before: int, after: int, device: torch.device) -> Tensor:
        taps = torch.arange(-reach, reach + 1, device=device)
        kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
        cells = torch.arange(before, device=device)
        places = (cells.unsqueeze(1) + taps).abs()
        places = torch.where(places < before, places, 2 * (before - 1) - places)
        weights = torch.zeros(before, before, device=device)
        for place, weight in zip(places.unbind(1), kernel / kernel.sum(), strict=True):
            weights = weights + (cells == place.unsqueeze(1)) * weight
        return weights

    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    rows, columns = (build(side, side, maps.device).to(wide.dtype) for side in (height, width))
    with without_autocast(maps.device.type):
        return (rows @ wide @ columns.t()).to(maps.dtype)


def without_autocast(kind: str) -> AbstractContextManager[Any]:
    """Return a ``with`` block in which operations on a type of device compute in the types of their tensors."""
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _weights(build: Build, before: int, after: int, maps: Tensor) -> Tensor:
    # Compilers have sizes without values, and fake tensors must not meet real ones: only plain calls share matrices.
    if torch.compiler.is_compiling() or type(maps) not in (Tensor, nn.Parameter) or maps.device.type == "meta":
        return build(before, after, maps.device)
    return _kept(build, before, after, maps.device)


@lru_cache(maxsize=128)
def _kept(build: Build, before: int, after: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # an inference tensor could not be used with gradients later
        return build(before, after, device)


def _averages(before: int, after: int, device: torch.device) -> Tensor:
    bins, cells = torch.arange(after, device=device).unsqueeze(1), torch.arange(before, device=device)
    start = bins * before // after
    end = ((bins + 1) * before + after - 1) // after
    return ((cells >= start) & (cells < end)).float() / (end - start)


def _between_centres(before: int, after: int, device: torch.device) -> Tensor:
    # Whole numbers, so that the weights are rounded once: (i + ½)·before/after − ½ in units of 1/(2·after).
    position = ((2 * torch.arange(after, device=device) + 1) * before - after).clamp_min(0)
    return _linear(position, 2 * after, before)


def _between_corners(before: int, after: int, device: torch.device) -> Tensor:
    return _linear(torch.arange(after, device=device) * (before - 1), max(after - 1, 1), before)


def _cubic(before: int, after: int, device: torch.device) -> Tensor:
    position = (2 * torch.arange(after, device=device) + 1) * before - after
    cells, low = torch.arange(before, device=device), position.div(2 * after, rounding_mode="floor").unsqueeze(1)
    share = position.remainder(2 * after).unsqueeze(1) / (2 * after)
    weights = torch.zeros(after, before, device=device)
    for tap in (-1, 0, 1, 2):
        x = (share - tap).abs()
        near, far = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1, _CUBIC * (((x - 5) * x + 8) * x - 4)
        weights = weights + (cells == (low + tap).clamp(0, before - 1)) * torch.where(x <= 1, near, far)
    return weights


def _linear(position: Tensor, unit: int, before: int) -> Tensor:
    """Return the weights of linear interpolation at positions in units of a cell over ``unit``."""
    cells = torch.arange(before, device=position.device)
    low = (position // unit).clamp_max(before - 1).unsqueeze(1)
    share = (position % unit).unsqueeze(1) / unit
    return (cells == low) * (1 - share) + (cells == (low + 1).clamp_max(before - 1)) * share
