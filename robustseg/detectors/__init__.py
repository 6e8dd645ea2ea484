"""Detectors of adversarial images by the consistency of a model's predictions, in pure PyTorch."""

from robustseg.detectors.adaptive import AdaptiveAttack, OnPatches, ThroughBlur
from robustseg.detectors.detector import Detector
from robustseg.detectors.entropy import self_entropy, vote_shares
from robustseg.detectors.errors import DetectorError
from robustseg.detectors.patches import PatchPair
from robustseg.detectors.scale import GaussianBlur, ScaleConsistency
from robustseg.detectors.spatial import SpatialConsistency
from robustseg.detectors.threshold import Threshold, auc

__all__ = [
    "AdaptiveAttack",
    "Detector",
    "DetectorError",
    "GaussianBlur",
    "OnPatches",
    "PatchPair",
    "ScaleConsistency",
    "SpatialConsistency",
    "Threshold",
    "ThroughBlur",
    "auc",
    "self_entropy",
    "vote_shares",
]
