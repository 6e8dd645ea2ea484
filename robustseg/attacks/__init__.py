"""Adversarial attacks on segmentation models: pure torch, usable in any loop."""

from robustseg.attacks.adam_step import AdamStep
from robustseg.attacks.adaptive_step import AdaptiveStep
from robustseg.attacks.alma import ALMAProx
from robustseg.attacks.base import Attack, AttackResult, AttackStep
from robustseg.attacks.carlini_wagner import CW
from robustseg.attacks.dag import DAG
from robustseg.attacks.deepfool import DeepFool
from robustseg.attacks.ensemble import WorstOf
from robustseg.attacks.guard import AttackError, AttackMode, NoGradientError, NonFiniteError, attack_mode
from robustseg.attacks.iterative import IterativeAttack
from robustseg.attacks.losses import (
    AttackLoss,
    CosPGDLoss,
    CrossEntropy,
    JensenShannon,
    SegPGDLoss,
    Tsallis,
    correct_pixels,
)
from robustseg.attacks.losses_margin import HoudiniLoss, Margin
from robustseg.attacks.losses_masked import (
    BalancedMaskedCrossEntropy,
    LogitCosine,
    MaskedCrossEntropy,
    MaskedSpherical,
)
from robustseg.attacks.minimum_norm import MinimumNormAttack
from robustseg.attacks.mlattack import MLAttack
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.presets import BIM, DS, FGSM, MIFGSM, PGD, CosPGD, SegFGSM, SegPGD
from robustseg.attacks.presets_segmentation import Houdini, PAdamCE, PAdamCos, TsallisPGD
from robustseg.attacks.presets_transfer import DIFGSM, NIFGSM, TIFGSM, TransferAttack
from robustseg.attacks.primal_dual import PDGD, PDPGD
from robustseg.attacks.sources import SourceEnsemble
from robustseg.attacks.square import Square
from robustseg.attacks.steps import MomentumStep, SignStep, StepRule
from robustseg.attacks.strong import APGD, SEA, StrongEnsemble
from robustseg.attacks.target_maps import PureClass, Remap, Strip, TargetMap, Text
from robustseg.attacks.target_scenes import LabelImage, Scene
from robustseg.attacks.targeted import Targeted
from robustseg.attacks.threat import Region, ThreatModel
from robustseg.attacks.transfer_steps import NesterovStep, TranslationInvariantStep
from robustseg.attacks.transforms import Chain, DynamicScale, InputDiversity, InputTransform
from robustseg.attacks.universal import Universal, UniversalPerturbation, UniversalStep
from robustseg.attacks.universal_delta import UniversalDelta
from robustseg.attacks.victim import Victim

__all__ = [
    "APGD",
    "BIM",
    "CW",
    "DAG",
    "DIFGSM",
    "DS",
    "FGSM",
    "MIFGSM",
    "NIFGSM",
    "PDGD",
    "PDPGD",
    "PGD",
    "SEA",
    "TIFGSM",
    "ALMAProx",
    "AdamStep",
    "AdaptiveStep",
    "Attack",
    "AttackError",
    "AttackLoss",
    "AttackMode",
    "AttackResult",
    "AttackStep",
    "BalancedMaskedCrossEntropy",
    "Chain",
    "CosPGD",
    "CosPGDLoss",
    "CrossEntropy",
    "DeepFool",
    "DynamicScale",
    "Houdini",
    "HoudiniLoss",
    "InputDiversity",
    "InputTransform",
    "IterativeAttack",
    "JensenShannon",
    "LabelImage",
    "LogitCosine",
    "MLAttack",
    "Margin",
    "MaskedCrossEntropy",
    "MaskedSpherical",
    "MinimumNormAttack",
    "MomentumStep",
    "NesterovStep",
    "NoGradientError",
    "NoiseSource",
    "NonFiniteError",
    "PAdamCE",
    "PAdamCos",
    "PureClass",
    "Region",
    "Remap",
    "Scene",
    "SegFGSM",
    "SegPGD",
    "SegPGDLoss",
    "SignStep",
    "SourceEnsemble",
    "Square",
    "StepRule",
    "Strip",
    "StrongEnsemble",
    "TargetMap",
    "Targeted",
    "Text",
    "ThreatModel",
    "TransferAttack",
    "TranslationInvariantStep",
    "Tsallis",
    "TsallisPGD",
    "Universal",
    "UniversalDelta",
    "UniversalPerturbation",
    "UniversalStep",
    "Victim",
    "WorstOf",
    "attack_mode",
    "correct_pixels",
]
