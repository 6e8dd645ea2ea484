"""Losses of the difference between the true logit and that of a rival class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustseg.attacks.losses.base import AttackLoss, correct_pixels


def true_and_runner_up(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return u_y and max_{k≠y} u_k of each pixel, B×H×W each; y is class 0 where ignored; ties pick one rival."""
    index = targets.clamp_min(0).unsqueeze(1)
    # For the gradient max saves an index, amax the whole copy; amax also splits the gradient among equals.
    runner_up = logits.scatter(1, index, -math.inf).max(1).values
    return logits.gather(1, index).squeeze(1), runner_up


@dataclass(frozen=True)
class Margin(AttackLoss):
    """max_{k≠y} u_k − u_y, the margin of the largest wrong logit (Carlini & Wagner, S&P 2017, without their clipping).

    It is positive on fooled pixels and not clipped, so that these pixels are pushed further. A targeted attack
    decreases it with y the target.
    """

    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:  # noqa: D102
        true, runner_up = true_and_runner_up(logits, targets)
        return (runner_up - true) * (targets >= 0)


Rival = Literal["auto", "predicted", "runner-up"]
TaskLoss = Literal["error", "iou"]


@dataclass(frozen=True)
class HoudiniLoss(AttackLoss):
    """Φ(−(u_y − u_ŷ))·ℓ(ŷ, y), a surrogate of the task loss ℓ (Cisse, Adi, Neverova & Keshet, NeurIPS 2017).

    Φ is the standard normal distribution and ℓ a constant for the gradient, which is −(2π)^{−½}·exp(−d²/2)·ℓ on u_y
    with d = u_y − u_ŷ, the opposite on u_ŷ, and zero where ŷ = y. A targeted attack decreases it with y the target.

    In the paper, which attacks towards a target, ŷ is the predicted class. In an untargeted attack correct pixels
    would then have no gradient for any ℓ, and only wrong pixels would change. So there ŷ is by default the runner-up
    max_{k≠y} u_k, and the value is a smooth count of the wrong pixels. The gradient vanishes where the two logits are
    far apart; in float32 it is exactly zero from |d| ≈ 14 on.

    Args:
        rival: Choice of ŷ: ``"predicted"``, the class of the largest logit (y if it is among the largest);
            ``"runner-up"``, the class of the largest logit besides y; or ``"auto"``: predicted if targeted, runner-up
            if not.
        task_loss: ℓ between the maps ŷ and y of an image: ``"error"``, 1 on each pixel where they differ and 0
            elsewhere, or ``"iou"``, 1 − mean IoU over the classes of the two on the valid pixels, the same for all
            pixels. A factor of the whole image changes neither a sign step nor a normalised one. The runner-up map has
            no pixel in common with y, so that both losses are 1 there.

    Raises:
        ValueError: Unknown ``rival`` or ``task_loss``.
    """

    rival: Rival = "auto"
    task_loss: TaskLoss = "error"

    def __post_init__(self) -> None:
        if self.rival not in ("auto", "predicted", "runner-up"):
            raise ValueError(f"rival = {self.rival!r}: use auto, predicted or runner-up.")
        if self.task_loss not in ("error", "iou"):
            raise ValueError(f"task_loss = {self.task_loss!r}: use error or iou.")

    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:  # noqa: D102
        if self.rival == "runner-up" or (self.rival == "auto" and not targeted):
            true, runner_up = true_and_runner_up(logits, targets)
            smooth_errors: Tensor = torch.special.ndtr(runner_up - true)
            return smooth_errors * (targets >= 0)
        true = logits.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
        largest, predicted = logits.max(1)
        hit = correct_pixels(logits, targets)
        # Not the difference of two equal logits: in a tie, max might have taken another class than y.
        chance: Tensor = torch.special.ndtr(torch.where(hit, torch.zeros_like(true), largest - true))
        if self.task_loss == "error":
            return chance * (~hit & (targets >= 0))
        task_loss = 1 - mean_iou(torch.where(hit, targets, predicted), targets, logits.shape[1])
        return chance * (targets >= 0) * task_loss.to(logits.dtype).view(-1, 1, 1)


def mean_iou(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Compute the mean IoU over the classes that occur in either map, on valid pixels: B values.

    Args:
        predicted: B×H×W.
        targets: B×H×W, negative where ignored; each image has a valid pixel.
        classes: C, larger than all labels.
    """
    valid = (targets >= 0).flatten(1).double()
    hits = valid * (predicted == targets).flatten(1)
    maps = predicted.flatten(1), targets.clamp_min(0).flatten(1)
    none = valid.new_zeros(len(targets), classes)
    shown, wanted = (none.scatter_add(1, labels, valid) for labels in maps)
    both = none.scatter_add(1, maps[1], hits)
    union = shown + wanted - both
    # Absent classes add 0/1 to the sum and nothing to the count.
    return (both / union.clamp_min(1)).sum(1) / (union > 0).sum(1).clamp_min(1)
