"""Every attack that the general properties are tested on: a new attack is one more row."""

from collections.abc import Callable

from robustseg.attacks import (
    BIM,
    DS,
    FGSM,
    MIFGSM,
    PGD,
    Attack,
    CosPGD,
    CrossEntropy,
    IterativeAttack,
    MomentumStep,
    SegFGSM,
    SegPGD,
    SegPGDLoss,
    ThreatModel,
)

Build = Callable[..., Attack]
"""Takes eps, norm, targeted and ignore_index as keywords."""

ATTACKS: dict[str, Build] = {
    "FGSM": FGSM,
    "SegFGSM": SegFGSM,
    "BIM": lambda **kw: BIM(step_size=0.02, steps=3, **kw),
    "BIM best": lambda **kw: BIM(step_size=0.02, steps=3, keep="best", **kw),
    "PGD": lambda **kw: PGD(step_size=0.02, steps=3, **kw),
    "PGD restarts": lambda **kw: PGD(step_size=0.02, steps=2, restarts=3, **kw),
    "PGD restarts best": lambda **kw: PGD(step_size=0.02, steps=2, restarts=2, keep="best", **kw),
    "SegPGD": lambda **kw: SegPGD(step_size=0.02, steps=3, **kw),
    "SegPGD best": lambda **kw: SegPGD(step_size=0.02, steps=3, schedule="log", keep="best", **kw),
    "CosPGD": lambda **kw: CosPGD(step_size=0.02, steps=3, **kw),
    "MIFGSM": lambda **kw: MIFGSM(step_size=0.02, steps=3, **kw),
    "DS": lambda **kw: DS(step_size=0.02, steps=3, **kw),
    "DS best": lambda **kw: DS(step_size=0.02, steps=3, random_start=True, keep="best", **kw),
    "SegPGD with momentum": lambda eps, norm, **kw: IterativeAttack(
        ThreatModel(eps, norm), SegPGDLoss("exp"), MomentumStep(0.02, 0.5), steps=3, **kw
    ),
    "CE by hand": lambda eps, norm, **kw: IterativeAttack(
        ThreatModel(eps, norm), CrossEntropy(), MomentumStep(1), steps=2, **kw
    ),
}

RANDOM = [name for name in ATTACKS if not name.startswith(("FGSM", "SegFGSM", "BIM", "MIFGSM"))]
"""Those whose result depends on the noise."""


def build(name: str, eps: float | str = 0.05, norm: str = "linf", **settings: object) -> Attack:
    return ATTACKS[name](eps=eps, norm=norm, **settings)
