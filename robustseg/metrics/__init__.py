"""Segmentation scores: a functional core over confusion matrices or class counts and a torchmetrics class."""

from robustseg.metrics.bootstrap import FEWEST_IMAGES, confidence_intervals, has_spread, no_spread, too_few
from robustseg.metrics.counts import (
    class_counts,
    class_iou_from_counts,
    mean_acc_from_counts,
    miou_from_counts,
    pixel_acc_from_counts,
    scores_from_counts,
)
from robustseg.metrics.functional import (
    class_iou,
    confusion_matrix,
    mean_acc,
    miou,
    misratio,
    pixel_acc,
    target_success,
)
from robustseg.metrics.scores import ConfusionScores, SegmentationScores
from robustseg.metrics.worst_case import WorstCase, greedy_worst_case, worst_case_images

__all__ = [
    "FEWEST_IMAGES",
    "ConfusionScores",
    "SegmentationScores",
    "WorstCase",
    "class_counts",
    "class_iou",
    "class_iou_from_counts",
    "confidence_intervals",
    "confusion_matrix",
    "greedy_worst_case",
    "has_spread",
    "mean_acc",
    "mean_acc_from_counts",
    "miou",
    "miou_from_counts",
    "misratio",
    "no_spread",
    "pixel_acc",
    "pixel_acc_from_counts",
    "scores_from_counts",
    "target_success",
    "too_few",
    "worst_case_images",
]
