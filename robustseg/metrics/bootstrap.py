"""Bootstrap confidence intervals of data-set scores, over images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustseg.metrics.counts import DATASET_SCORES, IMAGE_SCORES, SCORES, check_counts

FEWEST_IMAGES = 4
"""For an interval of 95 %: of 3 images one resample in 27 holds a single image three times, so that both ends would be
figures of single images, and of one image both are the figure itself."""
_ROUNDING = 1e-12
"""Width that rounding alone may give to an interval."""
_BLOCK = 2**20
"""Most numbers in the largest array of one block of resamples: 8 MB in float64."""


def confidence_intervals(
    counts: Tensor, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Compute percentile bootstrap intervals of the scores, for a data set of other images of the same kind.

    Draws as many images as there are, with replacement, computes the scores of each such data set, and takes the
    (1 ± level) / 2 quantiles of every score over the resamples, interpolated linearly (Efron & Tibshirani, An
    Introduction to the Bootstrap, 1993, Sec. 13.3). ``miou`` and ``mean_acc`` of a resample are over the classes that
    occur in it, as for any data set. The intervals know only the spread among these images. A class that occurs in at
    most one image shows no spread, so with many such classes an interval of ``miou`` is too narrow and off centre.
    Images are assumed to be independent: for neighbouring frames of a video the intervals are too narrow.

    The result is a function of the set of images, not of their order. Images without valid pixels are left out. For up
    to a million images, memory is about four copies of the counts and 70 MB, for any number of resamples.

    Args:
        counts: N×3×C int64, of :func:`~robustseg.metrics.class_counts`.
        level: Nominal coverage of the intervals, in (0, 1).
        resamples: Number of resamples, at least 2 / (1 − level), so that some lie beyond the interval's ends.
        seed: Seed of the draws.

    Returns:
        (low, high) of every score in [0, 1]; NaN without any valid pixel.

    Raises:
        ValueError: The counts have another shape or no image or fit no confusion matrix, the level is outside of (0,
            1), or there are too few resamples.
    """
    _check(counts, level, resamples)
    scores = _scores_of_resamples(_in_fixed_order(counts), resamples, torch.Generator().manual_seed(seed))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = scores.quantile(ends, dim=1).tolist()
    return dict(zip(SCORES, zip(low, high, strict=True), strict=True))


def too_few(images: int) -> str:
    """Say why so few images have no interval.

    Args:
        images: Number of images with valid pixels, below :data:`FEWEST_IMAGES`.
    """
    return f"{images} image{'' if images == 1 else 's'} with valid pixels: resampling takes {FEWEST_IMAGES} at least"


def has_spread(low: float, high: float) -> bool:
    """Return whether the ends of an interval differ by more than rounding."""
    return high - low > _ROUNDING


def no_spread(images: int) -> str:
    """Say why images that all have the same figures have no interval.

    Args:
        images: Number of images with valid pixels.
    """
    return f"{images} images with the same figures: resampling shows no spread"


def _in_fixed_order(counts: Tensor) -> Tensor:
    """Return the images with valid pixels, sorted by their counts, as CPU float64 (whole numbers)."""
    counts = counts.cpu()
    scored = counts[counts[:, 1].sum(-1) > 0]
    images, repeats = torch.unique(scored, dim=0, return_counts=True)
    ordered: Tensor = images.repeat_interleave(repeats, dim=0).double()
    return ordered


def _scores_of_resamples(counts: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Return the scores of each resample: K×``resamples``, a row for each of :data:`SCORES`."""
    images = len(counts)
    if not images:
        return torch.full((len(SCORES), resamples), torch.nan, dtype=torch.float64)
    flat, own = counts.flatten(1), [score(counts) for score in IMAGE_SCORES.values()]
    block = max(1, _BLOCK // max(flat.shape))
    scores = []
    for start in range(0, resamples, block):
        chosen = torch.randint(images, (min(block, resamples - start), images), generator=generator)
        weights = torch.zeros(chosen.shape, dtype=torch.float64)
        weights.scatter_add_(1, chosen, torch.ones_like(weights))
        # Exact in any order of summation: these are whole numbers below 2^53.
        totals = (weights @ flat).view(-1, *counts.shape[1:])
        whole = [score(totals) for score in DATASET_SCORES.values()]
        scores.append(torch.stack([*whole, *(values[chosen].mean(-1) for values in own)]))
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
