"""Data-set scores as a torchmetrics class that sums its counts over ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from robustseg.metrics.counts import DATASET_SCORES, IMAGE_SCORES, class_counts, class_iou_from_counts
from robustseg.metrics.functional import confusion_matrix
from robustseg.types import IGNORE_INDEX, checked_ignore_index

_FIXED_POINT = 2**40
"""Scale of per-image figures, which are summed as integers: exact in any order, and safe from changes of precision."""


class ConfusionScores(Metric):
    """Scores of a data set from the confusion matrices of its images, exact in any batching and on any number of ranks.

    ``miou``, ``pixel_acc`` and ``mean_acc`` are computed from the confusion matrix of the whole data set;
    ``image_miou`` is the mean of the images' own mIoU. Give every sample once: a sampler that pads would count some
    twice.

    Args:
        num_classes: Number of classes C.
        num_scored: Number of classes that are scored, the first ones; None for all. See
            :func:`~robustseg.metrics.class_counts`.
    """

    full_state_update = False
    confusion: Tensor
    scored_images: Tensor
    images: Tensor

    def __init__(self, num_classes: int, num_scored: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.num_scored = num_scored
        zero = torch.zeros((), dtype=torch.long)
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.long), dist_reduce_fx="sum")
        for name in IMAGE_SCORES:
            self.add_state(f"{name}_sum", zero.clone(), dist_reduce_fx="sum")
        self.add_state("scored_images", zero.clone(), dist_reduce_fx="sum")
        self.add_state("images", zero.clone(), dist_reduce_fx="sum")

    def update(self, confusions: Tensor) -> None:
        """Count a batch of B×C×C matrices, see :func:`~robustseg.metrics.confusion_matrix`."""
        self.confusion += confusions.sum(0)
        # An image without valid pixels has no score of its own and changes no figure.
        for name, score in IMAGE_SCORES.items():
            fixed = (score(class_counts(confusions, self.num_scored)).nan_to_num(0.0) * _FIXED_POINT).round().long()
            setattr(self, f"{name}_sum", getattr(self, f"{name}_sum") + fixed.sum())
        self.scored_images += (confusions.flatten(1).sum(1) > 0).sum()
        self.images += len(confusions)

    def compute(self) -> dict[str, Tensor]:
        """Return every score and ``class_iou`` (C) in [0, 1], and ``images``."""
        total = class_counts(self.confusion, self.num_scored)
        sums = {name: getattr(self, f"{name}_sum").double() / _FIXED_POINT for name in IMAGE_SCORES}
        return {
            **{name: score(total) for name, score in DATASET_SCORES.items()},
            **{name: value / self.scored_images for name, value in sums.items()},
            "class_iou": class_iou_from_counts(total),
            "images": self.images,
        }


class SegmentationScores(ConfusionScores):
    """Scores of a data set from predictions and targets.

    Args:
        num_classes: Number of classes C.
        ignore_index: Label of pixels that are not counted; None counts all.
        num_scored: Number of classes that are scored, the first ones; None for all.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int | None = IGNORE_INDEX,
        num_scored: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(num_classes, num_scored, **kwargs)
        self.ignore_index = checked_ignore_index(ignore_index)

    def update(self, predictions: Tensor, targets: Tensor) -> None:  # type: ignore[override]
        """Count a batch of predictions and targets.

        Args:
            predictions: B×H×W class ids in [0, C).
            targets: B×H×W class ids in [0, C), or the ignore index.

        Raises:
            ValueError: Shapes differ, or an id is outside of the classes.
        """
        super().update(confusion_matrix(predictions, targets, self.num_classes, self.ignore_index))
