"""Class counts: three numbers per class that determine every score of a confusion matrix.

They are the true positives (the diagonal), the true pixels (the sums of the rows) and the predicted pixels (the sums of
the columns). The counts of every image under every attack fit into memory where the matrices do not: 2000 images × 10
attacks × 151 classes are 72 MB of counts and 3.6 GB of matrices. Functions take any leading dimensions, integer or
float64 counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def class_counts(confusion: Tensor, num_scored: int | None = None) -> Tensor:
    """Count the true positives, true pixels and predicted pixels of each class.

    Args:
        confusion: …×C×C int64; rows are true classes, columns predicted ones.
        num_scored: Number of classes to count, the first ones; None for all. A model's void class has no counts of its
            own: a pixel that is predicted void is one that its true class lacks.

    Returns:
        …×3×C int64. Counts are additive: the counts of a sum of matrices are the sum of their counts.

    Raises:
        ValueError: The matrix is not square.
    """
    if confusion.ndim < 2 or confusion.shape[-1] != confusion.shape[-2]:
        raise ValueError(f"confusion of shape {tuple(confusion.shape)}: use …×C×C, true × predicted classes.")
    counts = torch.stack([confusion.diagonal(dim1=-2, dim2=-1), confusion.sum(-1), confusion.sum(-2)], dim=-2)
    return counts[..., :num_scored]


def class_iou_from_counts(counts: Tensor) -> Tensor:
    """Compute the intersection over union of each class.

    Args:
        counts: …×3×C, of :func:`class_counts`.

    Returns:
        …×C float64 in [0, 1], NaN for a class that is neither true nor predicted.

    Raises:
        ValueError: The counts have another shape.
    """
    true_positives, true, predicted = _parts(counts)
    return true_positives / (true + predicted - true_positives)


def miou_from_counts(counts: Tensor) -> Tensor:
    """Compute the mean IoU over the classes with a non-empty union.

    Args:
        counts: …×3×C, of :func:`class_counts`.

    Returns:
        … float64 in [0, 1], NaN without any valid pixel.

    Raises:
        ValueError: The counts have another shape.
    """
    return class_iou_from_counts(counts).nanmean(-1)


def pixel_acc_from_counts(counts: Tensor) -> Tensor:
    """Compute the share of valid pixels that are predicted right.

    Args:
        counts: …×3×C, of :func:`class_counts`.

    Returns:
        … float64 in [0, 1], NaN without any valid pixel.

    Raises:
        ValueError: The counts have another shape.
    """
    true_positives, true, _ = _parts(counts)
    return true_positives.sum(-1) / true.sum(-1)


def mean_acc_from_counts(counts: Tensor) -> Tensor:
    """Compute the mean over the true classes of the share of their pixels predicted right.

    Args:
        counts: …×3×C, of :func:`class_counts`.

    Returns:
        … float64 in [0, 1], NaN without any valid pixel.

    Raises:
        ValueError: The counts have another shape.
    """
    true_positives, true, _ = _parts(counts)
    return (true_positives / true).nanmean(-1)


DATASET_SCORES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "pixel_acc": pixel_acc_from_counts,
    "mean_acc": mean_acc_from_counts,
    "miou": miou_from_counts,
}
"""Scores of a data set, functions of the counts of all its images together."""
IMAGE_SCORES: Mapping[str, Callable[[Tensor], Tensor]] = {"image_miou": miou_from_counts}
"""Scores of a data set that are means over the images with valid pixels, functions of an image's counts."""
SCORES = (*DATASET_SCORES, *IMAGE_SCORES)


def scores_from_counts(counts: Tensor) -> dict[str, Tensor]:
    """Every score of a data set by name, in [0, 1]; NaN without any valid pixel.

    Args:
        counts: N×3×C, of :func:`class_counts`.
    """
    total = counts.sum(0)
    whole = {name: score(total) for name, score in DATASET_SCORES.items()}
    return whole | {name: score(counts).nanmean() for name, score in IMAGE_SCORES.items()}


def check_counts(counts: Tensor, leading: str) -> None:
    """Refuse tensors that cannot be the counts of a confusion matrix, a matrix itself in particular.

    Args:
        counts: The tensor to check.
        leading: The leading dimensions expected, for example ``A×N``.

    Raises:
        ValueError: The shape is another one, or no predictions have such counts.
    """
    remedy = "give what class_counts makes of confusion matrices."
    if counts.ndim != leading.count("×") + 3 or counts.shape[-2] != 3:
        raise ValueError(f"counts of shape {tuple(counts.shape)}: use {leading}×3×C; {remedy}")
    true_positives, true, predicted = counts.unbind(-2)
    # Beside a void class, which has no counts, there may be more true than predicted pixels or fewer.
    possible = (true_positives >= 0) & (true_positives <= true) & (true_positives <= predicted)
    if not possible.all():
        raise ValueError(f"counts hold more true positives than pixels of their class: {remedy}")


def _parts(counts: Tensor) -> tuple[Tensor, ...]:
    if counts.ndim < 2 or counts.shape[-2] != 3:
        raise ValueError(f"counts of shape {tuple(counts.shape)}: use …×3×C, as class_counts gives them.")
    return counts.double().unbind(-2)
