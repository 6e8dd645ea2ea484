"""Adversarial attacks on segmentation models: pure torch, usable in any loop."""

from robustseg.attacks.base import Attack, AttackResult, AttackStep
from robustseg.attacks.guard import AttackError, AttackMode, attack_mode
from robustseg.attacks.iterative import IterativeAttack
from robustseg.attacks.losses import AttackLoss, CosPGDLoss, CrossEntropy, SegPGDLoss, correct_pixels
from robustseg.attacks.minimum_norm import MinimumNormAttack
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.presets import BIM, DS, FGSM, MIFGSM, PGD, CosPGD, SegFGSM, SegPGD
from robustseg.attacks.steps import MomentumStep, SignStep, StepRule
from robustseg.attacks.threat import Region, ThreatModel
from robustseg.attacks.transforms import DynamicScale, InputTransform
from robustseg.attacks.victim import Victim

__all__ = [
    "BIM",
    "DS",
    "FGSM",
    "MIFGSM",
    "PGD",
    "Attack",
    "AttackError",
    "AttackLoss",
    "AttackMode",
    "AttackResult",
    "AttackStep",
    "CosPGD",
    "CosPGDLoss",
    "CrossEntropy",
    "DynamicScale",
    "InputTransform",
    "IterativeAttack",
    "MinimumNormAttack",
    "MomentumStep",
    "NoiseSource",
    "Region",
    "SegFGSM",
    "SegPGD",
    "SegPGDLoss",
    "SignStep",
    "StepRule",
    "ThreatModel",
    "Victim",
    "attack_mode",
    "correct_pixels",
]
