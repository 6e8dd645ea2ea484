"""Segmentation scores, computed from confusion matrices.

Rows of a confusion matrix are true classes, columns predicted ones. Functions take any leading dimensions, so that
one image, a stack of images or a whole data set go through the same code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustseg.devices import read
from robustseg.metrics.counts import (
    class_counts,
    class_iou_from_counts,
    mean_acc_from_counts,
    miou_from_counts,
    pixel_acc_from_counts,
)
from robustseg.types import IGNORE_INDEX, ignored_pixels


def confusion_matrix(
    predictions: Tensor,
    targets: Tensor,
    num_classes: int,
    ignore_index: int | None = IGNORE_INDEX,
    count_void: bool = False,
) -> Tensor:
    """Count (true class, predicted class) pairs of each image over its valid pixels.

    Args:
        predictions: B×H×W class ids in [0, C).
        targets: B×H×W class ids in [0, C), or the ignore index.
        num_classes: C.
        ignore_index: Label of pixels that are not counted; None counts all.
        count_void: Count pixels with that label as well, as the last class.

    Returns:
        B×C×C int64.

    Raises:
        ValueError: Shapes differ, or an id is outside of the classes.
    """
    if predictions.shape != targets.shape or targets.ndim != 3:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} must both be B×H×W."
        )
    batch, bins = len(targets), len(targets) * num_classes**2
    if not targets.numel():
        return torch.zeros(batch, num_classes, num_classes, dtype=torch.int64, device=targets.device)
    ignored = ignored_pixels(targets, ignore_index)
    if count_void:
        targets, ignored = targets.masked_fill(ignored, num_classes - 1), torch.zeros_like(ignored)
    maps = {"targets": targets.long(), "predictions": predictions.long()}
    true, predicted = (ids.masked_fill(ignored, 0) for ids in maps.values())
    ends = read(torch.stack([true.amin(), true.amax(), predicted.amin(), predicted.amax()]))[0].tolist()
    for (name, ids), lowest, highest in zip(maps.items(), ends[::2], ends[1::2], strict=True):
        if not 0 <= lowest <= highest < num_classes:
            valid = ids[~ignored]
            raise ValueError(
                f"{name} hold ids from {int(valid.min())} to {int(valid.max())}, outside of the {num_classes} classes: "
                f"check num_classes and ignore_index (= {ignore_index})."
            )
    image = torch.arange(batch, device=targets.device).view(-1, 1, 1)
    flat = ((image * num_classes + true) * num_classes + predicted).masked_fill(ignored, bins)
    # One bin more, for the ignored pixels: a mask as an index would wait for the device.
    counts = torch.bincount(flat.flatten(), minlength=bins + 1)[:bins]
    return counts.view(batch, num_classes, num_classes)


def class_iou(confusion: Tensor) -> Tensor:
    """Compute the intersection over union of each class of …×C×C matrices.

    Returns:
        …×C float64 in [0, 1], NaN for a class that is neither true nor predicted.

    Raises:
        ValueError: The matrix is not square.
    """
    return class_iou_from_counts(class_counts(confusion))


def miou(confusion: Tensor) -> Tensor:
    """Compute the mean IoU of …×C×C matrices over the classes with a non-empty union.

    Returns:
        … float64 in [0, 1], NaN without any valid pixel.

    Raises:
        ValueError: The matrix is not square.
    """
    return miou_from_counts(class_counts(confusion))


def pixel_acc(confusion: Tensor) -> Tensor:
    """Compute the share of valid pixels that are predicted right, from …×C×C matrices.

    Returns:
        … float64 in [0, 1], NaN without any valid pixel.

    Raises:
        ValueError: The matrix is not square.
    """
    return pixel_acc_from_counts(class_counts(confusion))


def mean_acc(confusion: Tensor) -> Tensor:
    """Compute the mean over the true classes of the share of their pixels predicted right, from …×C×C matrices.

    Returns:
        … float64 in [0, 1], NaN without any valid pixel.

    Raises:
        ValueError: The matrix is not square.
    """
    return mean_acc_from_counts(class_counts(confusion))


def misratio(confusion: Tensor) -> Tensor:
    """Compute the share of valid pixels that are misclassified (Gu et al., ECCV 2022, Sec. 3.2), from …×C×C matrices.

    Returns:
        … float64 in [0, 1], NaN without any valid pixel.

    Raises:
        ValueError: The matrix is not square.
    """
    return 1 - pixel_acc(confusion)


def target_success(
    predictions: Tensor, wanted: Tensor, targets: Tensor, ignore_index: int | None = IGNORE_INDEX
) -> Tensor:
    """Compute the share of an image's pixels that show a targeted attack's target, among those with another true label.

    Pixels with a true label equal to the attack's target say nothing about the attack and are left out (Xiao et al.,
    ECCV 2018). Pixels that are ignored in either map are left out too.

    Args:
        predictions: B×H×W class ids under the attack.
        wanted: B×H×W, the attack's targets, or the ignore index.
        targets: B×H×W, the true labels, or the ignore index.
        ignore_index: Label of pixels that are not counted; None counts all.

    Returns:
        B float64 in [0, 1], NaN for an image without such a pixel.

    Raises:
        ValueError: Shapes differ.
    """
    if not predictions.shape == wanted.shape == targets.shape or targets.ndim != 3:
        raise ValueError(
            f"predictions {tuple(predictions.shape)}, wanted {tuple(wanted.shape)} and targets {tuple(targets.shape)} "
            "must all be B×H×W."
        )
    ignored = ignored_pixels(wanted, ignore_index) | ignored_pixels(targets, ignore_index)
    counted = (wanted != targets) & (wanted >= 0) & ~ignored
    shown = (predictions == wanted) & counted
    return shown.flatten(1).sum(1).double() / counted.flatten(1).sum(1)
