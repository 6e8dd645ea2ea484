"""The library against the literal reference: the checks that must pass, and that every mutation must fail."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustseg import attacks
from robustseg.attacks import Attack, AttackStep, NoiseSource
from tests.helpers.nets import tiny_batch, tiny_net

from . import reference, reference_losses
from .reference_padam import literal_padam
from .reference_transfer import scaled

IGNORE_INDEX = 255
BALLS = {"linf": (0.06, 0.025), "l2": (0.8, 0.3), "rms": (0.07, 0.026)}
"""ε and α; a few steps reach the border of the ball, so that the projection acts."""
STEPS = 4
SCALE_DRAWS = [0.93, 0.11, 0.5, 0.68]
"""U[0, 1) draws of dynamic scale: larger, smaller, unchanged and slightly larger images."""


class FixedDraws(NoiseSource):
    """Noise whose scalars are given and whose start noise is seeded."""

    def __init__(self, scalars: list[float]):
        super().__init__(11, None, torch.device("cpu"))
        self._scalars = iter(scalars)

    def scalar(self) -> float:
        return next(self._scalars)


@dataclass(frozen=True)
class Case:
    """A named attack of the library and its literal definition."""

    build: Callable[..., Attack]
    loss: reference.Loss
    divisor: Callable[[Tensor], Tensor]
    """What the reference divides by where the library sums, from the targets: B values."""
    random_start: bool = False
    single_step: bool = False
    momentum: float | None = None
    scale_range: float | None = None
    literal: Callable[..., reference.LiteralRun] = reference.literal_attack
    """The literal loop."""


def valid_count(targets: Tensor) -> Tensor:
    return (targets >= 0).flatten(1).sum(1).clamp_min(1)


def pixel_count(targets: Tensor) -> Tensor:
    return torch.full((len(targets),), targets[0].numel())


def one(targets: Tensor) -> Tensor:
    return torch.ones(len(targets))


CE, COS = reference.mean_cross_entropy, reference.cospgd
LOGIT_COSINE = reference_losses.summed(reference_losses.logit_cosine)
SUMMED_CE = reference_losses.summed(lambda logits, label, *_: reference.pixel_cross_entropy(logits, label))

CASES = {
    "FGSM": Case(lambda alpha, steps, **kw: attacks.FGSM(**kw), CE, valid_count, single_step=True),
    "SegFGSM": Case(
        lambda alpha, steps, **kw: attacks.SegFGSM(**kw), reference.segpgd(), pixel_count, single_step=True
    ),
    "BIM": Case(lambda alpha, **kw: attacks.BIM(step_size=alpha, **kw), CE, valid_count),
    "PGD": Case(lambda alpha, **kw: attacks.PGD(step_size=alpha, **kw), CE, valid_count, random_start=True),
    "CosPGD": Case(lambda alpha, **kw: attacks.CosPGD(step_size=alpha, **kw), COS, one, random_start=True),
    "MIFGSM": Case(lambda alpha, **kw: attacks.MIFGSM(step_size=alpha, **kw), CE, valid_count, momentum=1.0),
    "MIFGSM-0.7": Case(
        lambda alpha, **kw: attacks.MIFGSM(step_size=alpha, decay=0.7, **kw), CE, valid_count, momentum=0.7
    ),
    "DS": Case(lambda alpha, **kw: attacks.DS(step_size=alpha, **kw), CE, valid_count, scale_range=0.5),
    "DS-0.3": Case(
        lambda alpha, **kw: attacks.DS(step_size=alpha, scale_range=0.3, **kw), CE, valid_count, scale_range=0.3
    ),
    "TsallisPGD": Case(
        lambda alpha, **kw: attacks.TsallisPGD(step_size=alpha, **kw),
        reference_losses.summed(reference_losses.tsallis()),
        one,
        random_start=True,
    ),
    "Houdini": Case(lambda alpha, **kw: attacks.Houdini(step_size=alpha, **kw), reference_losses.houdini(), one),
    "Houdini-iou": Case(
        lambda alpha, **kw: attacks.Houdini(
            step_size=alpha, rival="predicted", task_loss="iou", random_start=True, **kw
        ),
        reference_losses.houdini("predicted", "iou"),
        one,
        random_start=True,
    ),
    "PAdamCE": Case(
        lambda alpha, **kw: attacks.PAdamCE(step_size=alpha, **kw),
        SUMMED_CE,
        one,
        random_start=True,
        literal=literal_padam,
    ),
    "PAdamCos": Case(
        lambda alpha, **kw: attacks.PAdamCos(step_size=alpha, **kw),
        LOGIT_COSINE,
        one,
        random_start=True,
        literal=literal_padam,
    ),
    **{
        f"SegPGD-{schedule}": Case(
            lambda alpha, schedule=schedule, **kw: attacks.SegPGD(
                step_size=alpha, schedule=schedule, constant=0.3, **kw
            ),
            reference.segpgd(schedule, 0.3),
            pixel_count,
            random_start=True,
        )
        for schedule in ("linear", "log", "exp", "constant", "only-correct")
    },
}


def check_attack(name: str, norm: str = "linf", targeted: bool = False) -> None:
    """Every iterate, every loss and the result of one attack agree with the literal loop from the same start."""
    case = CASES[name]
    eps, alpha = BALLS[norm]
    steps = 1 if case.single_step else STEPS
    model, (images, targets) = tiny_net(), tiny_batch(ignore_index=IGNORE_INDEX)
    attack = case.build(eps=eps, alpha=alpha, steps=steps, norm=norm, targeted=targeted, ignore_index=IGNORE_INDEX)
    seen: list[AttackStep] = []
    result = attack(model, images, targets, generator=FixedDraws(SCALE_DRAWS), on_step=seen.append)

    start = seen[0].images_adv
    if case.random_start:
        assert not torch.equal(start, images), "the start is random"
        assert_allowed(start, images, eps, norm)
    else:
        torch.testing.assert_close(start, images, rtol=0, atol=0)
    spread = case.scale_range
    expected = case.literal(
        model,
        images,
        targets.masked_fill(targets == IGNORE_INDEX, reference.NO_LABEL),
        start,
        loss=case.loss,
        eps=eps,
        alpha=eps if case.single_step else alpha,
        steps=steps,
        norm=norm,
        targeted=targeted,
        momentum=case.momentum,
        changes=() if spread is None else [scaled(1 - spread + 2 * spread * draw) for draw in SCALE_DRAWS],
    )
    assert len(seen) == steps, "one gradient per step"
    for t, step in enumerate(seen):
        where = f"{name} {norm} targeted={targeted}, step {t + 1}: "
        close(step.images_adv, expected.images_adv[t], where + "iterate")
        close(step.loss / case.divisor(step.targets), expected.losses[t], where + "loss")
    close(result, expected.images_adv[-1], f"{name} {norm} targeted={targeted}: result")


def assert_allowed(images_adv: Tensor, images: Tensor, eps: float, norm: str) -> None:
    """In the ball and in the box, in float64 arithmetic; for float64 images up to the rounding of that arithmetic."""
    slack = 1e-12 if images.dtype == torch.float64 else 0.0
    delta = images_adv.double() - images.double()
    length = delta.abs().flatten(1).amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)
    length = length / math.sqrt(delta[0].numel()) if norm == "rms" else length
    assert float(length.max()) <= eps + slack, f"{float(length.max())} > {eps}"
    assert float(images_adv.min()) >= 0
    assert float(images_adv.max()) <= 1


def close(actual: Tensor, expected: Tensor, what: str, tolerance: float = 1e-8) -> None:
    """``what`` is named where the two differ."""
    limits = {"rtol": tolerance, "atol": tolerance / 10}
    torch.testing.assert_close(actual, expected, **limits, msg=lambda text: f"{what}: {text}")
