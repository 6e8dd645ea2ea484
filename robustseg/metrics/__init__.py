"""Segmentation scores: a functional core over confusion matrices and a torchmetrics class."""

from robustseg.metrics.functional import class_iou, confusion_matrix, mean_acc, miou, misratio, pixel_acc
from robustseg.metrics.scores import SegmentationScores

__all__ = ["SegmentationScores", "class_iou", "confusion_matrix", "mean_acc", "miou", "misratio", "pixel_acc"]
