"""Coordinates of the allowed images and the Adam optimiser, for Carlini and Wagner's attack."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from robustseg.attacks.threat import AllowedSet, ThreatModel

REACH = 0.99
"""Share of tanh's range that the pixel range [0, 1] takes up."""

_BETAS, _ADAM_EPS = (0.9, 0.999), 1e-8


class Chart(ABC):
    """Coordinates of the allowed images, in which Adam works. All tensors have the images' shape, at least float32."""

    start: Tensor
    """Coordinates of the clean images."""

    @abstractmethod
    def images(self, at: Tensor) -> Tensor:
        """Return the images with these coordinates."""

    @abstractmethod
    def slope(self, at: Tensor) -> Tensor | float:
        """Compute the derivative of each pixel with respect to its coordinate."""

    @abstractmethod
    def within(self, at: Tensor) -> Tensor:
        """Return the nearest allowed coordinates."""

    @abstractmethod
    def select(self, rows: Tensor) -> Chart:
        """Return the chart of the images at ``rows``."""


class TanhChart(Chart):
    """Coordinates w of the whole pixel range: x' = ½·(tanh(w)/r + 1) with |w| ≤ atanh(r)."""

    def __init__(self, images: Tensor):
        self._clean = images.to(torch.promote_types(images.dtype, torch.float32))
        self.start = torch.atanh(REACH * (2 * self._clean - 1))
        self._origin = torch.tanh(self.start)

    def images(self, at: Tensor) -> Tensor:  # noqa: D102
        # A difference, so that the first iterate is the image without any rounding.
        return (self._clean + (torch.tanh(at) - self._origin) / (2 * REACH)).clamp(0, 1)

    def slope(self, at: Tensor) -> Tensor:  # noqa: D102
        return (1 - torch.tanh(at).square()) / (2 * REACH)

    def within(self, at: Tensor) -> Tensor:  # noqa: D102
        limit = math.atanh(REACH)
        return at.clamp(-limit, limit)

    def select(self, rows: Tensor) -> TanhChart:  # noqa: D102
        return TanhChart(self._clean[rows])


class BallChart(Chart):
    """Pixel values as coordinates, within the threat model."""

    def __init__(self, images: Tensor, threat: ThreatModel):
        self._allowed = AllowedSet(threat, images)
        self.start = images.to(torch.promote_types(images.dtype, torch.float32))

    def images(self, at: Tensor) -> Tensor:  # noqa: D102
        return at

    def slope(self, at: Tensor) -> float:  # noqa: D102
        return 1.0

    def within(self, at: Tensor) -> Tensor:  # noqa: D102
        return self._allowed.project(at)

    def select(self, rows: Tensor) -> BallChart:  # noqa: D102
        return BallChart(self._allowed.images[rows], self._allowed.threat)


class Adam:
    """Adam (Kingma & Ba, ICLR 2015) without a graph, entry by entry."""

    def __init__(self, at: Tensor):
        self.at = at
        self._mean = torch.zeros_like(at)
        self._square = torch.zeros_like(at)
        self._steps = 0

    def step(self, grad: Tensor, step_size: float) -> Tensor:
        """Return the coordinates after a step along ``grad``; the caller sets :attr:`at`."""
        self._steps += 1
        first, second = _BETAS
        self._mean = first * self._mean + (1 - first) * grad
        self._square = second * self._square + (1 - second) * grad.square()
        mean = self._mean / (1 - first**self._steps)
        return self.at - step_size * mean / ((self._square / (1 - second**self._steps)).sqrt() + _ADAM_EPS)

    def select(self, rows: Tensor) -> Adam:
        """Return the state of the images at ``rows``."""
        part = Adam(self.at[rows])
        part._mean, part._square, part._steps = self._mean[rows], self._square[rows], self._steps
        return part
