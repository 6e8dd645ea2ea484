"""The loss of a network update over a batch of clean and adversarial images."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from robustseg.attacks.losses.base import IGNORED
from robustseg.types import ignored_pixels

LossCombination = Literal["sum_of_means", "mean"]


class ValidPixels(NamedTuple):
    """Numbers of valid pixels over all ranks, or the sums of their weights, as scalars, and the number of ranks."""

    clean: Tensor
    adversarial: Tensor
    ranks: int


class UpdateLoss(NamedTuple):
    """Loss of an update and its parts, scalars; the mean over the ranks is the whole batch's."""

    total: Tensor
    clean: Tensor
    adversarial: Tensor


def count_valid(targets: Tensor, clean: int, ignore_index: int | None, weights: Tensor | None = None) -> ValidPixels:
    """Count the valid pixels of both parts, summed over ranks; with weights of the classes each counts as its weight.

    Ranks hold different numbers of valid pixels, so averaging their means, as DistributedDataParallel does with the
    gradients, would weight pixels by the rank they happen to be on. One small all-reduce per update corrects this.

    Args:
        targets: This rank's targets, B×H×W.
        clean: Number of clean images, which come first.
        ignore_index: Label of pixels that do not count; None counts all.
        weights: Weight of each class, C values; None for 1.
    """
    valid = ~ignored_pixels(targets, ignore_index)
    if weights is not None:
        valid = weights.double()[targets.masked_fill(~valid, 0)] * valid
    counts = torch.stack([valid[:clean].sum(), valid[clean:].sum()])
    ranks = 1
    if dist.is_available() and dist.is_initialized():
        ranks = dist.get_world_size()
        dist.all_reduce(counts)
    return ValidPixels(counts[0], counts[1], ranks)


def update_loss(
    logits: Tensor,
    targets: Tensor,
    clean: int,
    valid: ValidPixels,
    combination: LossCombination,
    ignore_index: int | None,
    weights: Tensor | None = None,
) -> UpdateLoss:
    """Compute the cross-entropy over the valid pixels of both parts, in float32 or higher precision.

    ``sum_of_means`` adds the mean over the clean part's pixels and the mean over the adversarial part's (Gu et al.,
    ECCV 2022, Algorithm 2), so its scale is twice that of standard training. ``mean`` is one mean over all pixels. A
    part without valid pixels adds zero. With weights w of the classes y a mean is Σ w_y·loss / Σ w_y, as torch's.

    Args:
        logits: B×C×H×W.
        targets: B×H×W.
        clean: Number of clean images, which come first.
        valid: Result of :func:`count_valid` for the same targets.
        combination: ``"sum_of_means"`` or ``"mean"``.
        ignore_index: Label of pixels that do not count; None counts all.
        weights: Weight of each class, C values; None for 1.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # IGNORED is no label of the data, so that without an ignore index all pixels count.
    label = IGNORED if ignore_index is None else ignore_index
    weights = None if weights is None else weights.to(logits.dtype)
    pixels = F.cross_entropy(logits, targets, weights, reduction="none", ignore_index=label)
    sum_clean, sum_adversarial = pixels[:clean].sum(), pixels[clean:].sum()
    mean_clean = valid.ranks * sum_clean / _divisor(valid.clean, pixels)
    mean_adversarial = valid.ranks * sum_adversarial / _divisor(valid.adversarial, pixels)
    if combination == "sum_of_means":
        total = mean_clean + mean_adversarial
    else:
        total = valid.ranks * (sum_clean + sum_adversarial) / _divisor(valid.clean + valid.adversarial, pixels)
    return UpdateLoss(total, mean_clean.detach(), mean_adversarial.detach())


def _divisor(count: Tensor, pixels: Tensor) -> Tensor:
    """Return a count in the type of the pixels' losses; 1 for none."""
    return torch.where(count > 0, count, 1).to(pixels.dtype)
