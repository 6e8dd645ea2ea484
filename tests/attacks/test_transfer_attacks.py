"""Attacks that transfer, as wholes: against the literal loop, against one another, and wrong settings."""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from robustseg.attacks import (
    BIM,
    DIFGSM,
    DS,
    MIFGSM,
    NIFGSM,
    TIFGSM,
    Attack,
    Chain,
    CosPGDLoss,
    InputDiversity,
    IterativeAttack,
    NesterovStep,
    SegPGDLoss,
    SignStep,
    ThreatModel,
    TransferAttack,
    TranslationInvariantStep,
)
from tests.helpers.cases import partly
from tests.helpers.nets import CountingNet, per_pixel_net, tiny_batch, tiny_net

from .comparison import BALLS
from .comparison_transfer import CASES, check_case
from .table import linf_or_untargeted

AIMS_AND_NORMS = partly(itertools.product(BALLS, (False, True)), linf_or_untargeted)


@pytest.mark.parametrize(("norm", "targeted"), AIMS_AND_NORMS)
@pytest.mark.parametrize("name", CASES)
def test_whole_attack(name: str, norm: str, targeted: bool):
    check_case(name, norm, targeted)


@pytest.mark.parametrize(
    ("attack", "forwards"),
    [
        (TIFGSM(eps=0.1, step_size=0.01, steps=5, keep="best"), 6),
        (NIFGSM(eps=0.1, step_size=0.01, steps=5, decay=0, keep="best"), 6),
        (NIFGSM(eps=0.1, step_size=0.01, steps=5, keep="best"), 11),
        (TransferAttack(eps=0.1, step_size=0.01, steps=5, diversity_prob=0, keep="best"), 11),
    ],
    ids=repr,
)
def test_only_a_look_ahead_costs_a_forward_per_iterate(attack: Attack, forwards: int):
    model, (images, targets) = CountingNet(tiny_net()), tiny_batch()
    assert attack.run(model, images, targets).forwards.tolist() == [forwards] * 2
    assert model.forwards == forwards
    assert model.backwards == 5


@pytest.mark.parametrize("norm", ["linf", "l2"])  # an rms is that of the frame as well
def test_frame_without_gradient_makes_no_longer_look_ahead(norm: str):
    """A frame of ignored pixels that the model does not look at."""
    model, (images, targets) = per_pixel_net(), tiny_batch()
    inside = (..., slice(3, 10), slice(1, 7))
    framed = torch.rand(2, 3, 12, 11, dtype=torch.float64)
    framed[inside] = images
    framed_targets = F.pad(targets, (1, 4, 3, 2), value=255)
    attack = NIFGSM(eps=BALLS[norm][0], step_size=0.1, steps=5, norm=norm)
    torch.testing.assert_close(
        attack(model, framed, framed_targets)[inside], attack(model, images, targets), rtol=0, atol=1e-12
    )


EQUAL = {
    "diversity never = MI-FGSM": lambda **kw: (DIFGSM(decay=1, diversity_prob=0, **kw), MIFGSM(**kw)),
    "diversity of rate 1 = BIM": lambda **kw: (DIFGSM(diversity_prob=1, resize_rate=1, **kw), BIM(**kw)),
    "kernel of one pixel = BIM": lambda **kw: (TIFGSM(kernel_size=1, **kw), BIM(**kw)),
    "needle of a Gaussian = MI-FGSM": lambda **kw: (TIFGSM(decay=1, sigma=0.01, **kw), MIFGSM(**kw)),
    "Nesterov without memory = BIM": lambda **kw: (NIFGSM(decay=0, **kw), BIM(**kw)),
    "all off = DS": lambda **kw: (
        TransferAttack(decay=0, diversity_prob=0, scale_range=0.4, kernel_size=1, **kw),
        DS(scale_range=0.4, **kw),
    ),
    "TIFGSM with diversity = TransferAttack": lambda **kw: (
        TIFGSM(decay=1, diversity_prob=0.5, **kw),
        TransferAttack(nesterov=False, **kw),
    ),
    "by hand": lambda eps, norm, step_size, steps, targeted: (
        TransferAttack(
            eps=eps,
            step_size=step_size,
            steps=steps,
            loss=CosPGDLoss(),
            norm=norm,
            targeted=targeted,
            random_start=True,
        ),
        IterativeAttack(
            ThreatModel(eps, norm),
            CosPGDLoss(),
            TranslationInvariantStep(NesterovStep(step_size)),
            steps,
            targeted=targeted,
            transform=InputDiversity(),
        ),
    ),
}


@pytest.mark.parametrize(("norm", "targeted"), AIMS_AND_NORMS)
@pytest.mark.parametrize("pair", EQUAL)
def test_equal_attacks(pair: str, norm: str, targeted: bool):
    model, (images, targets) = tiny_net(), tiny_batch()
    pair_of = EQUAL[pair](eps=BALLS[norm][0], norm=norm, step_size=BALLS[norm][1], steps=4, targeted=targeted)
    first, second = (attack(model, images, targets) for attack in pair_of)
    assert not torch.equal(first, images)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


def test_description_holds_every_part():
    described = TransferAttack(loss=SegPGDLoss("log"), scale_range=0.3, sigma=2.5, decay=0.7).describe()
    assert described["attack"] == "TransferAttack"
    assert described["loss"] == {"class": "SegPGDLoss", "schedule": "log", "constant": 0.25}
    nesterov = {"class": "NesterovStep", "step_size": "1/100", "decay": 0.7}
    rule = {"class": "TranslationInvariantStep", "inner": nesterov, "kernel": "gaussian", "size": 15, "sigma": 2.5}
    assert described["step_rule"] == rule
    scale = {"class": "DynamicScale", "scale_range": 0.3}
    diversity = {"class": "InputDiversity", "prob": 0.5, "resize_rate": 0.9}
    assert described["transform"] == {"class": "Chain", "transforms": [scale, diversity]}


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: InputDiversity(1.5), r"prob = 1.5 is outside of \[0, 1\]"),
        (lambda: DIFGSM(diversity_prob=-0.1), r"prob = -0.1 is outside of \[0, 1\]"),
        (lambda: InputDiversity(float("nan")), r"prob = nan"),
        (lambda: InputDiversity(0.5, 0), r"resize_rate = 0 is no share of a size"),
        (lambda: DIFGSM(resize_rate=float("inf")), r"resize_rate = inf"),
        (lambda: Chain([]), r"transforms = \[\]"),
        (lambda: TIFGSM(kernel="box"), r"kernel = 'box': use gaussian, linear or uniform"),
        (lambda: TIFGSM(kernel_size=4), r"kernel size = 4: it is odd"),
        (lambda: TranslationInvariantStep(SignStep(), size=-1), r"kernel size = -1"),
        (lambda: TransferAttack(kernel_size=0), r"kernel size = 0"),
        (lambda: TIFGSM(sigma=0), r"sigma = 0 with the gaussian kernel"),
        (lambda: TIFGSM(kernel="linear", sigma=2), r"sigma = 2 with the linear kernel"),
        (lambda: NIFGSM(decay=-1), r"decay = -1 is negative"),
        (lambda: TransferAttack(scale_range=1), r"scale_range = 1 is outside"),
        (lambda: TransferAttack(diversity_prob=0, restarts=2), r"restarts = 2 without random_start"),
    ],
)
def test_settings(create: Callable, message: str):
    with pytest.raises(ValueError, match=message):
        create()


def test_nan_gradients_are_refused_after_smoothing():
    images, targets = tiny_batch(torch.float32)
    with pytest.raises(RuntimeError, match="not finite"):
        TransferAttack(diversity_prob=0)(lambda x: (torch.cat([x, x[:, :1]], 1) * 0).sqrt(), images, targets)
