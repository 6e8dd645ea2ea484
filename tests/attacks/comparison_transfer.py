"""The transfer boosters against the literal loop: checks that must pass, and that every mutation must fail."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustseg.attacks import (
    DIFGSM,
    NIFGSM,
    TIFGSM,
    Attack,
    SegPGDLoss,
    TransferAttack,
)
from tests.helpers.nets import tiny_batch, tiny_net

from . import reference
from . import reference_transfer as literal
from .comparison import BALLS, FixedDraws

STEPS = 4
RATES = {"0.6": [0.9, 0.2, 0.7], "1.5": [0.6, 0.8, 0.1], "0.9": [0.3, 0.999, 0.0]}
"""Draws of input diversity by its rate of sizes: size, offset down and to the right."""
NEVER, ALWAYS = 0.99, 0.0
"""Draws that leave the image as it is, or change it."""
SCALES = [0.9, 0.1, 0.5, 0.7]
APPLIED = [True, False, True, True]


@dataclass(frozen=True)
class Case:
    build: Callable[..., Attack]
    boost: literal.Boost
    draws: list[float]
    loss: reference.Loss = reference.mean_cross_entropy


def diverse(rate: str) -> tuple[list[float], list[literal.Change]]:
    """Draws of four steps of input diversity, and what they do."""
    draws: list[float] = []
    changes: list[literal.Change] = []
    for step, applied in enumerate(APPLIED):
        own = [(draw + 0.17 * step) % 1 for draw in RATES[rate]]
        draws += [ALWAYS, *own] if applied else [NEVER]
        changes.append(literal.diversified(rate, own) if applied else literal.no_change)
    return draws, changes


def everything() -> Case:
    """NI + TI + DI + DS with SegPGD's loss."""
    draws, changes = [], []
    for step, applied in enumerate(APPLIED):
        own = [(draw + 0.17 * step) % 1 for draw in RATES["0.6"]]
        draws += [SCALES[step], *([ALWAYS, *own] if applied else [NEVER])]
        second = literal.diversified("0.6", own) if applied else literal.no_change
        changes.append(literal.one_after_the_other(literal.scaled(0.5 + SCALES[step]), second))
    return Case(
        lambda **kw: TransferAttack(
            loss=SegPGDLoss(), decay=0.8, resize_rate=0.6, scale_range=0.5, kernel="linear", kernel_size=5, **kw
        ),
        literal.Boost(0.8, True, literal.kernel_table("linear", 5), changes),
        draws,
        reference.segpgd(),
    )


CASES = {
    "DI": Case(lambda **kw: DIFGSM(resize_rate=0.6, **kw), literal.Boost(changes=diverse("0.6")[1]), diverse("0.6")[0]),
    "M-DI": Case(
        lambda **kw: DIFGSM(resize_rate=1.5, decay=0.7, **kw),
        literal.Boost(0.7, changes=diverse("1.5")[1]),
        diverse("1.5")[0],
    ),
    "TI": Case(lambda **kw: TIFGSM(**kw), literal.Boost(table=literal.kernel_table("gaussian", 15)), []),
    "TI-MI": Case(
        lambda **kw: TIFGSM(kernel="uniform", kernel_size=3, decay=0.9, **kw),
        literal.Boost(0.9, table=literal.kernel_table("uniform", 3)),
        [],
    ),
    "NI": Case(lambda **kw: NIFGSM(**kw), literal.Boost(1.0, True), []),
    "NI-0.6": Case(lambda **kw: NIFGSM(decay=0.6, **kw), literal.Boost(0.6, True), []),
    "everything": everything(),
}


def check_case(name: str, norm: str, targeted: bool) -> None:
    case, (eps, alpha) = CASES[name], BALLS[norm]
    model, (images, targets) = tiny_net(), tiny_batch()
    seen: list[Tensor] = []
    result = case.build(eps=eps, step_size=alpha, steps=STEPS, norm=norm, targeted=targeted)(
        model,
        images,
        targets,
        generator=FixedDraws(case.draws),
        on_step=lambda step: seen.append(step.images_adv),
    )
    expected = literal.literal_transfer(
        model,
        images,
        targets.masked_fill(targets == 255, reference.NO_LABEL),
        case.boost,
        loss=case.loss,
        eps=eps,
        alpha=alpha,
        steps=STEPS,
        norm=norm,
        targeted=targeted,
    )
    for t, (actual, wanted) in enumerate(zip([*seen, result], expected, strict=True)):
        where = f"{name} {norm} targeted={targeted}, iterate {t}"
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-8, msg=lambda text, w=where: f"{w}: {text}")
