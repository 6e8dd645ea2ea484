"""Every attack that the general properties are tested on: a new attack is one more row."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import torch

from robustseg.attacks import (
    APGD,
    BIM,
    CW,
    DAG,
    DIFGSM,
    DS,
    FGSM,
    MIFGSM,
    NIFGSM,
    PDGD,
    PDPGD,
    PGD,
    TIFGSM,
    ALMAProx,
    Attack,
    BalancedMaskedCrossEntropy,
    CosPGD,
    CosPGDLoss,
    CrossEntropy,
    DeepFool,
    Houdini,
    IterativeAttack,
    JensenShannon,
    MLAttack,
    MomentumStep,
    PAdamCE,
    PAdamCos,
    SegFGSM,
    SegPGD,
    SegPGDLoss,
    SignStep,
    Square,
    Strip,
    Targeted,
    ThreatModel,
    TransferAttack,
    TranslationInvariantStep,
    TsallisPGD,
    Universal,
    UniversalDelta,
    WorstOf,
)

Build = Callable[..., Attack]
"""Takes eps, norm, targeted and ignore_index as keywords."""


_FILES = tempfile.TemporaryDirectory()


def _universal(eps: float | str, norm: str, targeted: bool = False, **settings: object) -> Universal:
    """Applies noise of size eps from a file."""
    threat = ThreatModel(eps, norm, bounds=(-1.0, 1.0))
    signs = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(2)).sign()
    delta = threat.around(torch.zeros_like(signs)).project(signs)[0]
    path = f"{_FILES.name}/{str(threat.eps).replace('/', '_')}.safetensors"
    UniversalDelta(delta, threat, "1/255", 1, "CrossEntropy()", False, None, 0).save(path)
    return Universal(path, tile=True, **settings)


@dataclass(frozen=True)
class Row:
    """One attack in a bounded form, small enough for the tests' tiny models."""

    build: Build
    cost: tuple[int, int] | None
    """Forwards and backwards of an image; None where they depend on the image."""
    norms: tuple[str, ...] = ("linf", "l2")
    random: bool = True
    """The result depends on the noise."""
    random_start: bool = True
    """The first iterate is not the image."""
    shared_noise: bool = False
    """All of the noise is shared by the batch."""
    gradient: bool = True
    """Needs the gradient of the model."""
    asks: bool = True
    """Asks the model anything."""
    targeted: bool = True
    """Can be targeted."""
    layers: bool = False
    """Needs the layers of a module: a plain function is no model for it."""
    looks: int = 0
    """Looks at which images are finished, so that they can leave: between runs, or every tenth gradient."""
    looks_ahead: bool = False
    """The gradient is taken elsewhere than at the iterate."""
    leaves_ball: bool = False
    """Iterates may lie outside of the ball; the result may not."""
    edges: tuple[str, ...] = ()
    """Norms by which what a pixel gets depends on how far the image reaches beyond it, by definition."""


CLEAN_START = {"random": False, "random_start": False}
EVERY_NORM = ("linf", "l2", "rms")
"""Of some attacks: elsewhere rms would be l2 once more."""

ROWS: dict[str, Row] = {
    "FGSM": Row(FGSM, (1, 1), **CLEAN_START),
    "SegFGSM": Row(SegFGSM, (1, 1), **CLEAN_START),
    "BIM": Row(lambda **kw: BIM(step_size=0.02, steps=3, **kw), (3, 3), **CLEAN_START),
    "BIM best": Row(lambda **kw: BIM(step_size=0.02, steps=3, keep="best", **kw), (4, 3), **CLEAN_START),
    "PGD": Row(lambda **kw: PGD(step_size=0.02, steps=3, **kw), (3, 3)),
    "PGD restarts": Row(lambda **kw: PGD(step_size=0.02, steps=2, restarts=3, **kw), (9, 6), looks=2),
    "PGD restarts best": Row(
        lambda **kw: PGD(step_size=0.02, steps=2, restarts=2, keep="best", **kw), (6, 4), norms=EVERY_NORM, looks=1
    ),
    "SegPGD": Row(lambda **kw: SegPGD(step_size=0.02, steps=3, **kw), (3, 3)),
    "SegPGD best": Row(lambda **kw: SegPGD(step_size=0.02, steps=3, schedule="log", keep="best", **kw), (4, 3)),
    "CosPGD": Row(lambda **kw: CosPGD(step_size=0.02, steps=3, **kw), (3, 3)),
    "MIFGSM": Row(lambda **kw: MIFGSM(step_size=0.02, steps=3, **kw), (3, 3), **CLEAN_START),
    "DS": Row(lambda **kw: DS(step_size=0.02, steps=3, **kw), (3, 3), random_start=False, shared_noise=True),
    "DS best": Row(lambda **kw: DS(step_size=0.02, steps=3, random_start=True, keep="best", **kw), (7, 3)),
    "APGD": Row(lambda **kw: APGD(steps=4, **kw), (5, 4)),
    "APGD shrinking": Row(
        lambda **kw: APGD(steps=4, loss=JensenShannon(), shrinking=True, restarts=2, **kw),
        (14, 8),
        norms=EVERY_NORM,
        leaves_ball=True,
        looks=1,
    ),
    "worst of": Row(lambda **kw: WorstOf([BIM(step_size=0.02, steps=2, **kw), APGD(steps=3, **kw)]), (9, 5), looks=2),
    "SegPGD with momentum": Row(
        lambda eps, norm, **kw: IterativeAttack(
            ThreatModel(eps, norm), SegPGDLoss("exp"), MomentumStep(0.02, 0.5), steps=3, **kw
        ),
        (3, 3),
    ),
    "CE by hand": Row(
        lambda eps, norm, **kw: IterativeAttack(ThreatModel(eps, norm), CrossEntropy(), MomentumStep(1), steps=2, **kw),
        (2, 2),
    ),
    "TsallisPGD": Row(lambda **kw: TsallisPGD(step_size=0.02, steps=3, **kw), (3, 3)),
    "Houdini": Row(lambda **kw: Houdini(step_size=0.02, steps=3, **kw), (3, 3), **CLEAN_START),
    "Houdini IoU best": Row(
        lambda **kw: Houdini(
            step_size=0.02, steps=3, rival="predicted", task_loss="iou", random_start=True, keep="best", **kw
        ),
        (4, 3),
    ),
    "PAdamCE": Row(lambda **kw: PAdamCE(step_size=0.02, steps=3, **kw), (3, 3), norms=EVERY_NORM),
    "PAdamCos clean": Row(
        lambda **kw: PAdamCos(step_size=0.02, steps=3, random_start=False, **kw), (3, 3), **CLEAN_START
    ),
    "PAdamCos best": Row(
        lambda **kw: PAdamCos(step_size=0.02, steps=3, restarts=2, keep="best", **kw), (8, 6), looks=1
    ),
    "MCE-Bal by hand": Row(
        lambda eps, norm, **kw: IterativeAttack(
            ThreatModel(eps, norm), BalancedMaskedCrossEntropy((5, 70, 0, 300)), SignStep(0.02), steps=3, **kw
        ),
        (3, 3),
    ),
    "Square": Row(lambda **kw: Square(steps=4, **kw), (4, 0), norms=("linf",), gradient=False),
    "Square accuracy": Row(
        lambda **kw: Square(steps=6, start="horizontal", objective="accuracy", **kw),
        (6, 0),
        norms=("linf",),
        gradient=False,
    ),
    "DAG": Row(lambda **kw: DAG(step_size=0.02, steps=3, **kw), (4, 3), norms=EVERY_NORM, random_start=False),
    "DAG runner-up": Row(lambda **kw: DAG(step_size=0.02, steps=3, aim="runner-up", **kw), (4, 3), **CLEAN_START),
    "DIFGSM": Row(
        lambda **kw: DIFGSM(step_size=0.02, steps=3, decay=1, diversity_prob=0.8, resize_rate=0.6, **kw),
        (3, 3),
        random_start=False,
        shared_noise=True,
    ),
    "TIFGSM": Row(
        lambda **kw: TIFGSM(step_size=0.02, steps=3, kernel_size=5, **kw), (3, 3), edges=("l2",), **CLEAN_START
    ),
    "TIFGSM with momentum": Row(
        lambda **kw: TIFGSM(step_size=0.02, steps=3, decay=1, kernel="linear", **kw),
        (3, 3),
        edges=("linf", "l2"),
        **CLEAN_START,
    ),
    "NIFGSM": Row(lambda **kw: NIFGSM(step_size=0.02, steps=3, **kw), (3, 3), looks_ahead=True, **CLEAN_START),
    "NIFGSM best": Row(
        lambda **kw: NIFGSM(step_size=0.02, steps=3, keep="best", **kw), (7, 3), looks_ahead=True, **CLEAN_START
    ),
    "TransferAttack": Row(
        lambda **kw: TransferAttack(
            step_size=0.02,
            steps=3,
            loss=SegPGDLoss(),
            diversity_prob=0.8,
            resize_rate=1.3,
            scale_range=0.5,
            kernel_size=5,
            random_start=True,
            keep="best",
            **kw,
        ),
        (7, 3),
        looks_ahead=True,
    ),
    "CosPGD translation-invariant": Row(
        lambda eps, norm, **kw: IterativeAttack(
            ThreatModel(eps, norm), CosPGDLoss(), TranslationInvariantStep(SignStep(0.02), "uniform", 3), 3, **kw
        ),
        (3, 3),
    ),
    "MLAttack": Row(
        lambda **kw: MLAttack(layers=["layers.1", "layers.2"], weights=[5, 20], step_size=0.02, steps=3, **kw),
        (4, 3),
        layers=True,
    ),
    "MLAttack clean best": Row(
        lambda **kw: MLAttack(
            layers=["layers.1", "layers.2"], weights=20, step_size=0.02, steps=3, random_start=False, keep="best", **kw
        ),
        (5, 3),
        layers=True,
        **CLEAN_START,
    ),
    "ALMAProx": Row(
        lambda **kw: ALMAProx(step_size=0.02, steps=6, check_every=2, success=0.9, **kw),
        (7, 6),
        norms=("linf",),
        leaves_ball=True,
        **CLEAN_START,
    ),
    "PDGD": Row(
        lambda **kw: PDGD(step_size=0.05, steps=4, drop_largest="always", success=0.9, **kw),
        (5, 4),
        norms=("l2",),
        leaves_ball=True,
        **CLEAN_START,
    ),
    "PDPGD": Row(lambda **kw: PDPGD(step_size=0.05, steps=4, **kw), (5, 4), leaves_ball=True, **CLEAN_START),
    "Targeted": Row(
        lambda targeted=False, **kw: Targeted(PGD(step_size=0.02, steps=3, targeted=True, **kw), Strip([0, 3, 1])),
        (3, 3),
        targeted=False,
    ),
    "Universal": Row(_universal, (0, 0), ("linf",), gradient=False, asks=False, targeted=False, **CLEAN_START),
    "CW": Row(
        lambda norm, **kw: CW(
            norm=norm, step_size=0.02, steps=3, search_steps=2 if norm == "l2" else 1, initial_c=0.1, **kw
        ),
        None,
        looks=1,
        **CLEAN_START,
    ),
    "CW confident": Row(
        lambda **kw: CW(success=0.9, step_size=0.1, steps=3, search_steps=1, confidence=0.5, **kw),
        (4, 3),
        looks=1,
        **CLEAN_START,
    ),
    "DeepFool": Row(
        lambda targeted=False, **kw: DeepFool(steps=2, **kw), (3, 6), targeted=False, looks=1, **CLEAN_START
    ),
}

ATTACKS = [*ROWS]
RANDOM = [name for name, row in ROWS.items() if row.random]
WITH_NORM = [(name, norm) for name, row in ROWS.items() for norm in row.norms]
"""Every attack with every norm that it supports."""
LOOPS = (
    *("PGD", "PGD restarts best", "DS best", "APGD shrinking", "worst of", "NIFGSM best", "MLAttack", "Square", "DAG"),
    *("ALMAProx", "PDGD", "PDPGD", "CW", "DeepFool", "Targeted", "Universal"),
)
"""One attack for each piece of code that has a loop, or another way through one, of its own."""


OWN_NORM = ("PGD restarts best", "APGD shrinking", "NIFGSM best", "DAG", "PDPGD", "CW", "DeepFool")
"""Of the loops those that look at the norm themselves, and one that leaves it to the threat model."""


def first_or_own_norm(name: str, norm: str) -> bool:
    """The part of :data:`WITH_NORM` that the default run takes."""
    return norm == ROWS[name].norms[0] or name in OWN_NORM


def linf_or_untargeted(norm: str, targeted: bool) -> bool:
    """The part of a cross product of norms and aims that the default run takes: the aim is the sign of a gradient."""
    return norm == "linf" or (norm == "l2" and not targeted)


def build(name: str, eps: float | str = 0.05, norm: str | None = None, **settings: object) -> Attack:
    row = ROWS[name]
    return row.build(eps=eps, norm=norm or row.norms[0], **settings)


def aims(name: str) -> list[bool]:
    """Values of ``targeted`` that the attack allows."""
    return [False, True] if ROWS[name].targeted else [False]
