"""Detectors of adversarial images by the consistency of a model's answers. Pure PyTorch."""

from robustseg.detectors.detector import Detector
from robustseg.detectors.errors import DetectorError
from robustseg.detectors.patches import PatchPair
from robustseg.detectors.scale import GaussianBlur, ScaleConsistency
from robustseg.detectors.spatial import SpatialConsistency
from robustseg.detectors.threshold import Threshold, auc

__all__ = [
    "Detector",
    "DetectorError",
    "GaussianBlur",
    "PatchPair",
    "ScaleConsistency",
    "SpatialConsistency",
    "Threshold",
    "auc",
]
