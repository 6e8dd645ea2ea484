"""Proximal operators of norms: exact, per image, and without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from robustseg.attacks.threat import per_image


def prox_linf(
    delta: Tensor,
    weight: Tensor,
    metric: Tensor | None = None,
    box: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Compute argmin over p in the box of ½·Σ hⱼ·(pⱼ − δⱼ)² + w·‖p‖∞, for each image.

    The solution is δ clipped to the box and to ±t. The derivative of the objective in t, w − Σ hⱼ·(|δⱼ| − t) over
    the entries with |clipped δⱼ| > t, never falls, and it is linear between two neighbouring magnitudes: with sorted
    magnitudes and their sums, its root has a closed form. Public code searches for the root by sections, up to 1e-6;
    sorting is exact and does not wait for the device to read the largest magnitude. Sums are in float64.

    Args:
        delta: B×…, any floating dtype.
        weight: w ≥ 0, B values.
        metric: h > 0, of the shape of ``delta``; 1 by default.
        box: Lower bounds ≤ 0 and upper bounds ≥ 0 of p, of the shape of ``delta``; none by default.

    Returns:
        p, of the shape and dtype of ``delta``.
    """
    inside = delta if box is None else delta.clamp(*box)
    heights, order = inside.abs().flatten(1).double().sort(dim=1, descending=True)
    weights = torch.ones_like(heights) if metric is None else metric.flatten(1).double().gather(1, order)
    mass = weights.cumsum(1)
    pull = (weights * delta.abs().flatten(1).double().gather(1, order)).cumsum(1)
    below = torch.cat([heights[:, 1:], torch.zeros_like(heights[:, :1])], 1)
    bound = weight.double().unsqueeze(1)
    # The root lies below the k-th largest magnitude if the derivative there is positive.
    first = (pull - mass * below < bound).sum(1, keepdim=True).clamp_max(heights.shape[1] - 1)
    root = (pull.gather(1, first) - bound) / mass.gather(1, first)
    # Without a root w dominates and t is 0. The other bound only corrects rounding.
    root = torch.minimum(root.clamp_min(0), heights.gather(1, first))
    limit = per_image(root, delta).to(delta.dtype)
    return inside.clamp(-limit, limit)


def prox_l2(delta: Tensor, weight: Tensor) -> Tensor:
    """Compute argmin over p of ½·‖p − δ‖² + w·‖p‖₂, for each image: δ shortened by w, or zero.

    Args:
        delta: B×….
        weight: w ≥ 0, B values.
    """
    length = delta.flatten(1).norm(dim=1)
    shrink = 1 - weight.to(delta.dtype) / length.clamp_min(torch.finfo(delta.dtype).tiny)
    return delta * per_image(shrink.clamp_min(0), delta)
