"""Segmentation scores from confusion matrices: accumulate counts, derive everything else.

Rows of a confusion matrix are true classes, columns predicted ones. Functions take any leading dimensions, so that
one image, a stack of images or a whole data set go through the same code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustseg.metrics.counts import (
    class_counts,
    class_iou_from_counts,
    mean_acc_from_counts,
    miou_from_counts,
    pixel_acc_from_counts,
)
from robustseg.types import IGNORE_INDEX


def confusion_matrix(
    predictions: Tensor, targets: Tensor, num_classes: int, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Count (true class, predicted class) pairs of each image over its valid pixels.

    Args:
        predictions: B×H×W class ids in [0, C).
        targets: B×H×W class ids in [0, C), or the ignore index.
        num_classes: C.
        ignore_index: Label of pixels that are not counted.

    Returns:
        B×C×C int64.

    Raises:
        ValueError: Shapes differ, or an id is outside of the classes.
    """
    if predictions.shape != targets.shape or targets.ndim != 3:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} must both be B×H×W."
        )
    batch, valid = len(targets), targets != ignore_index
    image = torch.arange(batch, device=targets.device).view(-1, 1, 1).expand_as(targets)[valid]
    true, predicted = targets[valid].long(), predictions[valid].long()
    for name, ids in (("targets", true), ("predictions", predicted)):
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < num_classes:
            raise ValueError(
                f"{name} hold ids from {int(ids.min())} to {int(ids.max())}, outside of the {num_classes} classes: "
                f"check num_classes and ignore_index (= {ignore_index})."
            )
    flat = (image * num_classes + true) * num_classes + predicted
    return torch.bincount(flat, minlength=batch * num_classes**2).view(batch, num_classes, num_classes)


def class_iou(confusion: Tensor) -> Tensor:
    """Intersection over union of each class: …×C float64, NaN for a class that is neither true nor predicted."""
    return class_iou_from_counts(class_counts(confusion))


def miou(confusion: Tensor) -> Tensor:
    """Mean IoU over the classes with a non-empty union; NaN without any valid pixel."""
    return miou_from_counts(class_counts(confusion))


def pixel_acc(confusion: Tensor) -> Tensor:
    """Share of valid pixels that are predicted right; NaN without any valid pixel."""
    return pixel_acc_from_counts(class_counts(confusion))


def mean_acc(confusion: Tensor) -> Tensor:
    """Mean over the true classes of the share of their pixels predicted right; NaN without any valid pixel."""
    return mean_acc_from_counts(class_counts(confusion))


def misratio(confusion: Tensor) -> Tensor:
    """Share of valid pixels that are misclassified (Gu et al., ECCV 2022, Sec. 3.2)."""
    return 1 - pixel_acc(confusion)


def target_success(predictions: Tensor, wanted: Tensor, targets: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Share of an image's pixels that show what a targeted attacker wanted, among those where that is not the truth.

    Pixels whose true label equals the wanted one say nothing about the attack and are left out (Xiao et al., ECCV
    2018), as are pixels that are ignored in either map.

    Args:
        predictions: B×H×W class ids under the attack.
        wanted: B×H×W, the attacker's targets, or the ignore index.
        targets: B×H×W, the true targets, or the ignore index.
        ignore_index: Label of pixels that are not counted.

    Returns:
        B float64, NaN for an image without such a pixel.

    Raises:
        ValueError: Shapes differ.
    """
    if not predictions.shape == wanted.shape == targets.shape or targets.ndim != 3:
        raise ValueError(
            f"predictions {tuple(predictions.shape)}, wanted {tuple(wanted.shape)} and targets {tuple(targets.shape)} "
            "must all be B×H×W."
        )
    counted = (wanted != targets) & (wanted != ignore_index) & (targets != ignore_index)
    shown = (predictions == wanted) & counted
    return shown.flatten(1).sum(1).double() / counted.flatten(1).sum(1)
