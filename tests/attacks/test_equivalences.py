"""Attacks that are special cases of one another, and what keep, restarts and on_step promise."""

import itertools
import json

import pytest
import torch
from torch import Tensor

from robustseg.attacks import (
    APGD,
    BIM,
    DAG,
    DS,
    FGSM,
    MIFGSM,
    NIFGSM,
    PGD,
    Attack,
    AttackStep,
    CosPGD,
    CosPGDLoss,
    CrossEntropy,
    DynamicScale,
    IterativeAttack,
    MomentumStep,
    PAdamCE,
    SegFGSM,
    SegPGD,
    SegPGDLoss,
    SignStep,
    ThreatModel,
)
from tests.helpers.cases import partly
from tests.helpers.nets import tiny_batch, tiny_net

from .best import BEST, check_best, correct_share
from .table import ATTACKS, ROWS, build, linf_or_untargeted

EPS, ALPHA, STEPS = "8/255", "2/255", 6
BALL = {"eps": EPS, "step_size": ALPHA, "steps": STEPS}


def by_hand(norm: str, loss: object, rule: object, steps: int = STEPS, **settings: object) -> IterativeAttack:
    return IterativeAttack(ThreatModel(EPS, norm), loss, rule, steps, **settings)


PAIRS = {
    "FGSM = one step of PGD": lambda n: (
        FGSM(eps=EPS, norm=n),
        PGD(eps=EPS, step_size=EPS, steps=1, norm=n, random_start=False),
    ),
    "FGSM = one step of BIM": lambda n: (FGSM(eps=EPS, norm=n), BIM(eps=EPS, step_size=EPS, steps=1, norm=n)),
    "SegFGSM = one step of SegPGD": lambda n: (
        SegFGSM(eps=EPS, norm=n),
        SegPGD(eps=EPS, step_size=EPS, steps=1, norm=n, random_start=False),
    ),
    "SegFGSM = one step by any dynamic schedule": lambda n: (
        SegFGSM(eps=EPS, norm=n),
        SegPGD(eps=EPS, step_size=EPS, steps=1, schedule="exp", norm=n, random_start=False),
    ),
    "BIM = PGD from the image": lambda n: (BIM(**BALL, norm=n), PGD(**BALL, norm=n, random_start=False)),
    "MIFGSM without memory = BIM": lambda n: (MIFGSM(**BALL, decay=0, norm=n), BIM(**BALL, norm=n)),
    "SegPGD only-correct = constant 0": lambda n: (
        SegPGD(**BALL, schedule="only-correct", norm=n),
        SegPGD(**BALL, schedule="constant", constant=0, norm=n),
    ),
    "SegPGD constant ½ = PGD": lambda n: (
        SegPGD(**BALL, schedule="constant", constant=0.5, norm=n),
        PGD(**BALL, norm=n),
    ),
    "DS without scaling = BIM": lambda n: (DS(**BALL, scale_range=0, norm=n), BIM(**BALL, norm=n)),
    "PGD by hand": lambda n: (PGD(**BALL, norm=n), by_hand(n, CrossEntropy(), SignStep(ALPHA))),
    "SegPGD by hand": lambda n: (
        SegPGD(**BALL, schedule="log", norm=n, keep="best"),
        by_hand(n, SegPGDLoss("log"), SignStep(ALPHA), keep="best"),
    ),
    "CosPGD by hand": lambda n: (
        CosPGD(**BALL, norm=n, restarts=2),
        by_hand(n, CosPGDLoss(), SignStep(ALPHA), restarts=2),
    ),
    "MIFGSM by hand": lambda n: (
        MIFGSM(**BALL, norm=n),
        by_hand(n, CrossEntropy(), MomentumStep(ALPHA), random_start=False),
    ),
    "DS by hand": lambda n: (
        DS(**BALL, norm=n),
        by_hand(n, CrossEntropy(), SignStep(ALPHA), random_start=False, transform=DynamicScale()),
    ),
    "fractions = decimals": lambda n: (
        BIM(eps="0.25", step_size="1/8", steps=3, norm=n),
        BIM(eps=0.25, step_size=0.125, steps=3, norm=n),
    ),
}


@pytest.mark.parametrize(
    ("norm", "targeted"), partly(itertools.product(("linf", "l2"), (False, True)), linf_or_untargeted)
)
@pytest.mark.parametrize("pair", PAIRS)
def test_equal_attacks(pair: str, norm: str, targeted: bool):
    model, (images, targets) = tiny_net(), tiny_batch()
    results = []
    for attack in PAIRS[pair](norm):
        attack.targeted = targeted
        results.append(attack(model, images, targets))
    assert not torch.equal(results[0], images)
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attack", [PGD, CosPGD, MIFGSM])
def test_runs_whose_loss_does_not_depend_on_T_are_prefixes(attack: type[Attack]):
    model, (images, targets) = tiny_net(), tiny_batch()
    seen: list[Tensor] = []
    attack(eps=EPS, step_size=ALPHA, steps=5)(model, images, targets, on_step=lambda step: seen.append(step.images_adv))
    assert torch.equal(attack(eps=EPS, step_size=ALPHA, steps=3)(model, images, targets), seen[3])


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", BEST)
def test_best_is_the_best_of_start_iterates_and_last(name: str, targeted: bool):
    check_best(name, targeted)


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("targeted", [False, True])
def test_restarts_are_never_worse_than_one_run(keep: str, targeted: bool):
    model = tiny_net()
    gain = torch.zeros(())
    for seed in range(4):
        images, targets = tiny_batch(seed=seed, batch=3)
        settings = {"keep": keep, "targeted": targeted}
        single = PGD(eps=0.1, step_size=0.06, steps=3, **settings)(model, images, targets)
        several = PGD(eps=0.1, step_size=0.06, steps=3, restarts=4, **settings)(model, images, targets)
        shares = [correct_share(model, x, targets) for x in (single, several)]
        difference = shares[1] - shares[0] if targeted else shares[0] - shares[1]
        assert (difference >= 0).all()
        gain = gain + difference.sum()
    assert float(gain) > 0


ITERATIVE = [name for name in ATTACKS if isinstance(build(name), IterativeAttack)]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ITERATIVE)
def test_steps_are_reported_as_they_were(name: str, targeted: bool):
    model, (images, targets) = tiny_net(), tiny_batch()
    attack = build(name, 0.05, targeted=targeted)
    assert isinstance(attack, IterativeAttack)
    seen: list[AttackStep] = []
    result = attack(model, images, targets, on_step=seen.append)
    counted = [(step.restart, step.step) for step in seen]
    assert counted == [(r, t) for r in range(attack.restarts) for t in range(1, attack.steps + 1)]
    starts = [step.images_adv for step in seen if step.step == 1]
    assert all(torch.equal(start, images) for start in starts) == (not attack.random_start)
    assert len({tuple(start.flatten().tolist()) for start in starts}) == len(starts)
    for step in seen:
        assert step.steps == attack.steps
        tensors = (step.images_adv, step.logits, step.targets, step.loss)
        assert not any(tensor.requires_grad for tensor in tensors)
        assert step.loss.shape == (2,)
        assert step.targets.shape == (2, *step.logits.shape[-2:])
        if attack.transform is None:
            answered = torch.isclose(step.logits, model(step.images_adv), rtol=1e-7, atol=1e-7).all()
            # The first step has nothing to look ahead along.
            assert bool(answered) != (ROWS[name].looks_ahead and step.step > 1)
            assert torch.equal(step.targets, targets.masked_fill(targets == 255, -100))
        progress = (step.step - 1) / step.steps
        if not ROWS[name].layers:
            assert torch.equal(step.loss, attack.loss(step.logits, step.targets, progress, targeted))
    # Watching changes nothing.
    assert torch.equal(result, attack(model, images, targets))


@pytest.mark.parametrize("name", ATTACKS)
def test_description_names_what_distinguishes_attacks(name: str):
    aim = ROWS[name].targeted
    attack = build(name, "8/255", targeted=aim)
    described = attack.describe()
    assert described["eps"] == "8/255"
    assert described["norm"] == ROWS[name].norms[0]
    assert described["targeted"] is aim
    assert described.get("random_start", ROWS[name].random_start) == ROWS[name].random_start
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described != build(name, "4/255", targeted=aim).describe()


@pytest.mark.parametrize(
    "attack",
    [
        lambda eps, step, norm: PGD(eps=eps, step_size=step, steps=4, norm=norm),
        lambda eps, step, norm: MIFGSM(eps=eps, step_size=step, steps=4, norm=norm),
        lambda eps, step, norm: NIFGSM(eps=eps, step_size=step, steps=4, norm=norm),
        lambda eps, step, norm: PAdamCE(eps=eps, step_size=step, steps=4, norm=norm),
        lambda eps, step, norm: APGD(eps=eps, steps=8, norm=norm, shrinking=True),
        lambda eps, step, norm: DAG(eps=eps, step_size="1/10", steps=8, norm=norm),
    ],
    ids=["PGD", "MIFGSM", "NIFGSM", "PAdamCE", "APGD", "DAG"],
)
def test_rms_is_l2_in_another_unit(attack):
    """An rms of ε over n values is a length of ε·√n, of steps and look-aheads too."""
    model, (images, targets) = tiny_net(), tiny_batch()
    root = images[0].numel() ** 0.5
    by_rms = attack(0.06, 0.02, "rms")(model, images, targets)
    by_length = attack(0.06 * root, 0.02 * root, "l2")(model, images, targets)
    torch.testing.assert_close(by_rms, by_length, rtol=0, atol=1e-9)
    rms = (by_rms - images).square().mean((1, 2, 3)).sqrt()
    assert (rms > 0.04).all()
    assert (rms <= 0.06 + 1e-12).all()


@pytest.mark.parametrize("size", [(4, 5), (20, 30)])
def test_rms_of_a_step_is_the_same_for_any_size(size):
    images = torch.full((2, 3, *size), 0.5, dtype=torch.float64)
    targets = torch.zeros(2, *size, dtype=torch.long)
    images_adv = FGSM(eps="1/10", norm="rms")(tiny_net(), images, targets)
    assert (images_adv - images).square().mean((1, 2, 3)).sqrt().tolist() == pytest.approx([0.1, 0.1], rel=1e-9)
