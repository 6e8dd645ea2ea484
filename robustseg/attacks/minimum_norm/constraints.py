"""Constraints of the minimum-norm attacks: one per valid pixel, fulfilled if negative.

A constraint is a function of one pixel's logits: positive while the pixel is not yet fooled. Ignored pixels have no
constraint; their value is zero and passes no gradient.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.losses.margin import true_and_runner_up

DropLargest = Literal["never", "always", "gradually"]


def margins(logits: Tensor, targets: Tensor, targeted: bool) -> Tensor:
    """Compute the target class's logit minus the largest other one, B×H×W; the negative if targeted.

    Args:
        logits: B×C×H×W, C ≥ 2; half precision is computed in float32.
        targets: B×H×W, :data:`~robustseg.attacks.losses.base.IGNORED` where ignored.
        targeted: ``targets`` are the attacker's labels.
    """
    true, other = true_and_runner_up(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)
    return torch.where(targets == IGNORED, 0, other - true if targeted else true - other)


def margin_ratios(logits: Tensor, targets: Tensor, targeted: bool, surplus: float = 0.0) -> Tensor:
    """Compute the difference-of-logits ratio (Croce & Hein, ICML 2020), B×H×W, positive until a pixel is fooled.

    It is the margin over the distance of the largest logit to the third; if targeted, to the mean of the third and
    the fourth. It does not depend on the scale of the logits.

    With three classes a targeted constraint has the denominator of an untargeted one. With two classes the ratio would
    be ±1 without any gradient, so the margin itself is the constraint. This is our choice: the paper needs three
    classes, or four if targeted.

    Args:
        logits: B×C×H×W, C ≥ 2; half precision is computed in float32.
        targets: B×H×W, :data:`~robustseg.attacks.losses.base.IGNORED` where ignored.
        targeted: ``targets`` are the attacker's labels.
        surplus: Added to the margin, so that a fulfilled constraint is not a tie.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    margin = margins(logits, targets, targeted) + surplus
    if logits.shape[1] < 3:
        return torch.where(targets == IGNORED, 0, margin)
    ranked = logits.topk(min(4 if targeted else 3, logits.shape[1]), dim=1).values
    spread = ranked[:, 0] - ranked[:, 2:].mean(1)
    # If all of these logits are equal, the ratio is large instead of undefined.
    return torch.where(targets == IGNORED, 0, margin / (spread + 1e-8))


def kept_constraints(
    constraints: Tensor, valid: Tensor, spare: Tensor, drop_largest: DropLargest, progress: float, most: float
) -> Tensor:
    """Return a mask of the constraints that count, B×H×W bool: all, or all but the ``spare`` largest of each image.

    The largest are the least likely to be fulfilled, and the image counts as fooled without them. Constraints equal to
    the largest kept one are all kept.

    Args:
        constraints: B×H×W, without a graph.
        valid: B×H×W bool.
        spare: B counts of constraints that need not be fulfilled.
        drop_largest: ``"never"``, ``"always"``, or ``"gradually"``: none at first, ``spare`` at the end.
        progress: 0 at the first step to 1 at the last one.
        most: Share of an image's pixels that ``spare`` cannot exceed; known without waiting for the device.
    """
    if drop_largest == "never":
        return valid
    if drop_largest == "gradually":
        # A count instead of a share: 0.3 of 10 are 3, although 0.3 · 10 is not exact in binary.
        spare = (spare * progress + 1e-6).long()
    flat = constraints.masked_fill(~valid, -float("inf")).flatten(1)
    highest = flat.topk(min(int(most * flat.shape[1]) + 2, flat.shape[1]), dim=1).values
    edge = highest.gather(1, spare.clamp_max(highest.shape[1] - 1).unsqueeze(1))
    return valid & (constraints <= edge.unsqueeze(2))


def check_drop_largest(drop_largest: str) -> None:
    """Refuse an unknown way to drop constraints.

    Raises:
        ValueError: Not one of :data:`DropLargest`.
    """
    if drop_largest not in get_args(DropLargest):
        raise ValueError(f"drop_largest = {drop_largest!r}: use never, always or gradually.")
