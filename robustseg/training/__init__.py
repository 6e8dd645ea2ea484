"""Adversarial training in Lightning: the module, the batch split and the loss of an update."""

from robustseg.training.module import RobustSegmentation
from robustseg.training.objective import count_valid, update_loss
from robustseg.training.schedule import LearningRateFactor
from robustseg.training.split import AdversarialSplit, MixedBatch, TrainingError

__all__ = [
    "AdversarialSplit",
    "LearningRateFactor",
    "MixedBatch",
    "RobustSegmentation",
    "TrainingError",
    "count_valid",
    "update_loss",
]
