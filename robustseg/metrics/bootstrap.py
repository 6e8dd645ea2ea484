"""Bootstrap confidence intervals of data-set scores, over images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustseg.metrics.counts import check_counts, mean_acc_from_counts, miou_from_counts, pixel_acc_from_counts

_NAMES = ("pixel_acc", "mean_acc", "miou", "image_miou")
_BLOCK = 2**20
"""Numbers in the largest array of one block of resamples: 8 MB each."""


def confidence_intervals(
    counts: Tensor, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of the scores, for a data set of other images of the same kind.

    Draws as many images as there are, with replacement, computes the scores of each such data set, and takes the
    (1 ± level) / 2 quantiles of every score over the resamples, interpolated linearly (Efron & Tibshirani, An
    Introduction to the Bootstrap, 1993, Sec. 13.3). ``miou`` and ``mean_acc`` of a resample are over the classes that
    occur in it, as for any data set. The spread among these images is all there is to go by: nothing is known of a
    class that is in one of them or none, and an interval of ``miou`` with many such classes is too narrow and off
    centre. Images are taken to be independent: for neighbouring frames of a video the intervals are too narrow.

    The result is a function of the set of images, not of their order. Images without valid pixels take part in no
    score and are left out. Besides about four copies of the counts it takes about 70 MB, whatever the number of
    resamples, for up to a million images.

    Args:
        counts: N×3×C int64, of :func:`~robustseg.metrics.class_counts`.
        level: Share of such intervals that should hold the true score, in (0, 1).
        resamples: At least 2 / (1 − level), or no resample is beyond the ends.
        seed: Of the draws.

    Returns:
        (low, high) of ``pixel_acc``, ``mean_acc``, ``miou`` and ``image_miou`` in [0, 1]; NaN without any valid pixel.

    Raises:
        ValueError: Another shape, no image, a level outside of (0, 1), or too few resamples.
    """
    _check(counts, level, resamples)
    scores = _scores_of_resamples(_in_fixed_order(counts), resamples, torch.Generator().manual_seed(seed))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = scores.quantile(ends, dim=1).tolist()
    return dict(zip(_NAMES, zip(low, high, strict=True), strict=True))


def _in_fixed_order(counts: Tensor) -> Tensor:
    """The images with valid pixels, sorted by their counts: CPU float64, whole numbers."""
    counts = counts.cpu()
    scored = counts[counts[:, 1].sum(-1) > 0]
    images, repeats = torch.unique(scored, dim=0, return_counts=True)
    ordered: Tensor = images.repeat_interleave(repeats, dim=0).double()
    return ordered


def _scores_of_resamples(counts: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Four rows, in the order of the names, with each resample's score."""
    images = len(counts)
    if not images:
        return torch.full((len(_NAMES), resamples), torch.nan, dtype=torch.float64)
    flat, image_miou = counts.flatten(1), miou_from_counts(counts)
    block = max(1, _BLOCK // max(flat.shape))
    scores = []
    for start in range(0, resamples, block):
        chosen = torch.randint(images, (min(block, resamples - start), images), generator=generator)
        weights = torch.zeros(chosen.shape, dtype=torch.float64)
        weights.scatter_add_(1, chosen, torch.ones_like(weights))
        # Exact, in whatever order the product adds: these are whole numbers below 2^53.
        totals = (weights @ flat).view(-1, *counts.shape[1:])
        whole = [pixel_acc_from_counts(totals), mean_acc_from_counts(totals), miou_from_counts(totals)]
        scores.append(torch.stack([*whole, image_miou[chosen].mean(-1)]))
    return torch.cat(scores, dim=1)


def _check(counts: Tensor, level: float, resamples: int) -> None:
    check_counts(counts, "N")
    if not len(counts):
        raise ValueError(f"counts of shape {tuple(counts.shape)}: an interval needs at least one image.")
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: use a share between 0 and 1, like 0.95.")
    # In floating point 2 / (1 − 0.9) is a little more than 20.
    least = math.ceil(2 / (1 - level) * (1 - 1e-9))
    if resamples < least:
        raise ValueError(f"resamples = {resamples}: a level of {level} needs at least {least}.")
