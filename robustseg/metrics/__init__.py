"""Segmentation scores: a functional core over confusion matrices and a torchmetrics class."""

from robustseg.metrics.functional import (
    class_iou,
    confusion_matrix,
    mean_acc,
    miou,
    misratio,
    pixel_acc,
    target_success,
)
from robustseg.metrics.scores import SegmentationScores
from robustseg.metrics.worst_case import WorstCase, greedy_worst_case, worst_case_images

__all__ = [
    "SegmentationScores",
    "WorstCase",
    "class_iou",
    "confusion_matrix",
    "greedy_worst_case",
    "mean_acc",
    "miou",
    "misratio",
    "pixel_acc",
    "target_success",
    "worst_case_images",
]
