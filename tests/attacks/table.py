"""Every attack that the general properties are tested on: a new attack is one more row."""

from collections.abc import Callable
from dataclasses import dataclass

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
    targeted: bool = True
    """Can be targeted."""
    waits: bool = False
    """Looks at the device's results within its loop, or reads numbers from a generator on the CPU."""


CLEAN_START = {"random": False, "random_start": False}

ROWS: dict[str, Row] = {
    "FGSM": Row(FGSM, (1, 1), **CLEAN_START),
    "SegFGSM": Row(SegFGSM, (1, 1), **CLEAN_START),
    "BIM": Row(lambda **kw: BIM(step_size=0.02, steps=3, **kw), (3, 3), **CLEAN_START),
    "BIM best": Row(lambda **kw: BIM(step_size=0.02, steps=3, keep="best", **kw), (4, 3), **CLEAN_START),
    "PGD": Row(lambda **kw: PGD(step_size=0.02, steps=3, **kw), (3, 3)),
    "PGD restarts": Row(lambda **kw: PGD(step_size=0.02, steps=2, restarts=3, **kw), (9, 6)),
    "PGD restarts best": Row(lambda **kw: PGD(step_size=0.02, steps=2, restarts=2, keep="best", **kw), (6, 4)),
    "SegPGD": Row(lambda **kw: SegPGD(step_size=0.02, steps=3, **kw), (3, 3)),
    "SegPGD best": Row(lambda **kw: SegPGD(step_size=0.02, steps=3, schedule="log", keep="best", **kw), (4, 3)),
    "CosPGD": Row(lambda **kw: CosPGD(step_size=0.02, steps=3, **kw), (3, 3)),
    "MIFGSM": Row(lambda **kw: MIFGSM(step_size=0.02, steps=3, **kw), (3, 3), **CLEAN_START),
    "DS": Row(
        lambda **kw: DS(step_size=0.02, steps=3, **kw), (3, 3), random_start=False, shared_noise=True, waits=True
    ),
    "DS best": Row(lambda **kw: DS(step_size=0.02, steps=3, random_start=True, keep="best", **kw), (7, 3), waits=True),
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
}

ATTACKS = [*ROWS]
RANDOM = [name for name, row in ROWS.items() if row.random]
WITH_NORM = [(name, norm) for name, row in ROWS.items() for norm in row.norms]
"""Every attack with every norm that it supports."""


def build(name: str, eps: float | str = 0.05, norm: str | None = None, **settings: object) -> Attack:
    row = ROWS[name]
    return row.build(eps=eps, norm=norm or row.norms[0], **settings)


def aims(name: str) -> list[bool]:
    """Values of ``targeted`` that the attack allows."""
    return [False, True] if ROWS[name].targeted else [False]
