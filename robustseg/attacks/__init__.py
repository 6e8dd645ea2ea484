"""Adversarial attacks on segmentation models: pure torch, usable in any loop."""

from robustseg.attacks.base import Attack, AttackResult, AttackStep
from robustseg.attacks.errors import AttackError, NoGradientError, NonFiniteError
from robustseg.attacks.guard import attack_mode
from robustseg.attacks.iterative import IterativeAttack
from robustseg.attacks.losses.base import AttackLoss, correct_pixels
from robustseg.attacks.losses.margin import HoudiniLoss, Margin
from robustseg.attacks.losses.masked import (
    BalancedMaskedCrossEntropy,
    LogitCosine,
    MaskedCrossEntropy,
    MaskedSpherical,
)
from robustseg.attacks.losses.pixelwise import CosPGDLoss, CrossEntropy, JensenShannon, SegPGDLoss, Tsallis
from robustseg.attacks.minimum_norm.alma import ALMAProx
from robustseg.attacks.minimum_norm.base import MinimumNormAttack
from robustseg.attacks.minimum_norm.carlini_wagner import CW
from robustseg.attacks.minimum_norm.dag import DAG
from robustseg.attacks.minimum_norm.deepfool import DeepFool
from robustseg.attacks.minimum_norm.primal_dual import PDGD, PDPGD
from robustseg.attacks.noise import NOISE_VERSION, NoiseSource
from robustseg.attacks.precision import Search
from robustseg.attacks.presets.ensemble import WorstOf
from robustseg.attacks.presets.gradient import BIM, DS, FGSM, MIFGSM, PGD, CosPGD, SegFGSM, SegPGD
from robustseg.attacks.presets.mlattack import MLAttack
from robustseg.attacks.presets.segmentation import Houdini, PAdamCE, PAdamCos, TsallisPGD
from robustseg.attacks.presets.square import Square
from robustseg.attacks.presets.strong import APGD, SEA, StrongEnsemble
from robustseg.attacks.presets.transfer import DIFGSM, NIFGSM, TIFGSM, TransferAttack
from robustseg.attacks.sources import SourceEnsemble
from robustseg.attacks.state import AttackMode
from robustseg.attacks.steps.adam import AdamStep
from robustseg.attacks.steps.adaptive import AdaptiveStep
from robustseg.attacks.steps.base import StepRule
from robustseg.attacks.steps.sign import MomentumStep, SignStep
from robustseg.attacks.steps.transfer import NesterovStep, TranslationInvariantStep
from robustseg.attacks.targets.maps import PureClass, Remap, Strip, TargetMap, Text
from robustseg.attacks.targets.scenes import LabelImage, Scene
from robustseg.attacks.targets.targeted import Targeted
from robustseg.attacks.threat import AllowedSet, ThreatModel
from robustseg.attacks.transforms import Chain, DynamicScale, InputDiversity, InputTransform
from robustseg.attacks.universal.delta import UniversalDelta
from robustseg.attacks.universal.fit import Universal, UniversalPerturbation, UniversalStep
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
    "NOISE_VERSION",
    "PDGD",
    "PDPGD",
    "PGD",
    "SEA",
    "TIFGSM",
    "ALMAProx",
    "AdamStep",
    "AdaptiveStep",
    "AllowedSet",
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
    "Remap",
    "Scene",
    "Search",
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
