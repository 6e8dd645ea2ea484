"""Threat models: a norm ball around the image, intersected with the valid pixel range."""

from __future__ import annotations

import copy
import functools
import math
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from robustseg.attacks.noise import NoiseSource
from robustseg.types import parse_fraction

Norm = Literal["linf", "l2", "rms"]


class ThreatModel:
    """A ball of radius ``eps`` around each image, intersected with the box of valid images.

    Args:
        eps: Radius, in units of the [0, 1] pixel range: ``"8/255"``, ``0.03``. For ``linf`` the largest
            change of any channel of any pixel, at most 1; for ``l2`` the Euclidean length of an image's
            whole perturbation, which may exceed 1; for ``rms`` that length over the square root of the number
            of an image's values, 3·H·W, at most 1: the same for images of any size.
        norm: ``"linf"``, ``"l2"`` or ``"rms"``.
        bounds: Smallest and largest value of an image, within [-1, 1]; an attack refuses images outside.

    Raises:
        ValueError: ``eps`` is negative, not a number, or above 1 under ``linf`` or ``rms``; unknown ``norm``; wrong
            ``bounds``.
    """

    def __init__(self, eps: float | str = "8/255", norm: Norm = "linf", bounds: tuple[float, float] = (0.0, 1.0)):
        if norm not in ("linf", "l2", "rms"):
            raise ValueError(f"norm = {norm!r} is not known: use linf, l2 or rms.")
        self.eps: Fraction = parse_fraction(eps, "eps")
        if self.eps < 0:
            raise ValueError(f"eps = {eps} is negative: a radius is 0 or more, 8/255 for example.")
        if norm != "l2" and self.eps > 1:
            raise ValueError(
                f"eps = {self.eps} exceeds 1: eps is in units of the [0, 1] pixel range, so write {self.eps}/255 "
                f"for {self.eps} grey levels of 8-bit images."
            )
        self.norm: Norm = norm
        self.bounds = _checked_bounds(bounds)

    def scaled(self, factor: float) -> ThreatModel:
        """Return the threat model with ``factor`` times the radius, at most 1 under linf and rms."""
        eps = self.eps * Fraction(factor)
        return ThreatModel(str(min(eps, Fraction(1)) if self.norm != "l2" else eps), self.norm, self.bounds)

    def around(self, images: Tensor) -> AllowedSet:
        """Return the allowed set around ``images`` (B×3×H×W), computed once per attack."""
        return AllowedSet(self, images)

    def direction(self, grad: Tensor) -> Tensor:
        """Compute the steepest ascent direction of unit size: sign (linf), or gradient over its norm (l2, rms)."""
        if self.norm == "linf":
            return grad.sign()
        return _unit(grad) * self.length(grad)

    def length(self, images: Tensor) -> float:
        """Return the Euclidean length of a perturbation of B×3×H×W ``images`` whose l2 or rms is 1."""
        return math.sqrt(images[0].numel()) if self.norm == "rms" else 1.0

    def __repr__(self) -> str:
        return f"ThreatModel(eps={str(self.eps)!r}, norm={self.norm!r}, bounds={self.bounds})"


class AllowedSet:
    """The images that a :class:`ThreatModel` allows around one batch.

    Args:
        threat: The threat model.
        images: B×3×H×W within the threat model's bounds.
    """

    def __init__(self, threat: ThreatModel, images: Tensor):
        self.threat = threat
        self.images = images
        self._eps = float(threat.eps) * (1.0 if threat.norm == "linf" else threat.length(images))

    @functools.cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest allowed images under linf, in the images' dtype, rounded towards the images."""
        lower, upper = self.threat.bounds
        wide = self.images.double()
        exact = wide - self._eps
        low = exact.to(self.images.dtype)
        low = torch.where(low.double() < exact, torch.nextafter(low, self.images), low).clamp_min_(lower)
        exact = wide + self._eps
        high = exact.to(self.images.dtype)
        high = torch.where(high.double() > exact, torch.nextafter(high, self.images), high).clamp_max_(upper)
        return low, high

    def select(self, rows: Tensor) -> AllowedSet:
        """Return the allowed set of the images at ``rows``."""
        part = copy.copy(self)
        part.images = self.images[rows]
        if "_ends" in vars(self):
            low, high = self._ends
            part._ends = low[rows], high[rows]
        return part

    def project(self, images_adv: Tensor) -> Tensor:
        """Project onto the nearest allowed images (linf), or first into the ball, then into the box (stays in both)."""
        if self.threat.norm == "linf":
            low, high = self._ends
            return torch.minimum(torch.maximum(images_adv, low), high)
        delta = images_adv - self.images
        length = per_image(delta.flatten(1).norm(dim=1), delta)
        shrink = (self._eps / length.clamp_min(torch.finfo(delta.dtype).tiny)).clamp_max(1.0)
        return (self.images + delta * shrink).clamp(*self.threat.bounds)

    def sample(self, noise: NoiseSource) -> Tensor:
        """Draw a random start: uniform in the ball, then clipped to the box."""
        if self.threat.norm == "linf":
            delta = noise.uniform(self.images).mul_(2).sub_(1).mul_(self._eps)
        else:
            normal = noise.normal(self.images)
            radius = noise.uniform(self.images.flatten(1)[:, :1]) ** (1 / self.images[0].numel())
            delta = _unit(normal) * per_image(radius.flatten(), normal) * self._eps
        return self.project(self.images + delta)

    def excess(self, images_adv: Tensor) -> Tensor:
        """Compute by how much the farthest image leaves the ball or the box; does not wait for the device.

        Under linf the comparison is exact: float64 decides as the ends in the images' dtype do, at less cost. The
        length under l2 and rms is a float64 sum and may exceed the radius by its rounding.

        Returns:
            One float64: 0 or less if all images are allowed, NaN if a value is NaN.
        """
        clean, moved = self.images.double(), images_adv.double()
        if self.threat.norm == "linf":
            # In float64 alone, since operations on two dtypes take several times as long on a CPU.
            below, above = (clean - self._eps).sub_(moved).amax(), (clean + self._eps).sub_(moved).amin().neg()
            beyond = torch.maximum(below, above)
        else:
            beyond = (moved - clean).flatten(1).norm(dim=1).amax() - self._eps * (1 + 1e-9)
        return torch.maximum(beyond, box_excess(images_adv, self.threat.bounds))

    def finish(self, images_adv: Tensor) -> Tensor:
        """Correct rounding beyond an l2 or rms ball, so that the budget holds exactly in the images' dtype."""
        if self.threat.norm == "linf":
            return images_adv
        clean = self.images.double()
        delta = images_adv.double() - clean
        length = per_image(delta.flatten(1).norm(dim=1), delta)
        delta = delta * torch.where(length > self._eps, self._eps / length * (1 - 1e-12), torch.ones_like(length))
        return _round_towards(clean + delta, self.images).clamp(*self.threat.bounds)


def box_excess(images: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Compute by how much the farthest value leaves the bounds, one float64; NaN if a value is NaN."""
    lower, upper = torch.tensor(bounds, dtype=images.dtype).tolist()  # 0.8 in float32 is a little more
    return torch.maximum(lower - images.amin().double(), images.amax().double() - upper)


def _checked_bounds(bounds: object) -> tuple[float, float]:
    """Return the bounds of images as a pair.

    Raises:
        ValueError: They are not two numbers in order within [-1, 1].
    """
    if isinstance(bounds, (tuple, list)) and len(bounds) == 2:
        lower, upper = bounds
        numbers = all(isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in bounds)
        if numbers and -1 <= lower < upper <= 1:
            return float(lower), float(upper)
    raise ValueError(
        f"bounds = {bounds!r}: give the smallest and the largest value of an image, two numbers in order within "
        "[-1, 1], (0, 1) for images in [0, 1]."
    )


def _unit(grad: Tensor) -> Tensor:
    """Divide the gradient of each image by its Euclidean length."""
    # Scaling by the largest entry first keeps the squares of tiny gradients from underflowing.
    tiny = torch.finfo(grad.dtype).tiny
    scaled = grad / per_image(grad.abs().flatten(1).amax(1), grad).clamp_min(tiny)
    return scaled / per_image(scaled.flatten(1).norm(dim=1), grad).clamp_min(tiny)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Reshape B values so that they broadcast over a tensor of shape B×…."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _round_towards(wide: Tensor, images: Tensor) -> Tensor:
    """Cast float64 ``wide`` to the dtype of ``images`` without moving away from ``images``."""
    rounded = wide.to(images.dtype)
    origin = images.double()
    outside = (rounded.double() - origin).abs() > (wide - origin).abs()
    return torch.where(outside, torch.nextafter(rounded, images), rounded)
