"""APGD and its stages against the literal algorithm, against torchattacks, and what its parts promise."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import APGD, AdaptiveStep, AttackStep, ThreatModel
from robustseg.attacks.losses.masked import MaskedCrossEntropy
from robustseg.attacks.presets import strong
from robustseg.attacks.presets.strong import SHRINKING
from tests.helpers.cases import partly
from tests.helpers.nets import tiny_batch, tiny_net

from . import reference
from .comparison import assert_allowed
from .defects import Defect, after, around, found_by, replaced
from .reference_apgd import best_iterate, checkpoints, literal_stage

EPS = {"linf": 0.08, "l2": 0.9}
CE = reference.mean_cross_entropy


def masked(logits: Tensor, targets: Tensor, t: int, steps: int, targeted: bool) -> list[Tensor]:
    """CE summed over the pixels that are right (that do not show the target yet)."""
    losses = []
    for u, y in zip(logits, targets, strict=True):
        total = (u * 0).sum()
        for i, j in reference.valid_pixels(y):
            right = reference.pixel_prediction(u[:, i, j]) == int(y[i, j])
            if right != targeted:
                total = total + reference.pixel_cross_entropy(u[:, i, j], int(y[i, j]))
        losses.append(total)
    return losses


def check_apgd(norm: str, targeted: bool = False, loss: bool = False, shrinking: bool = False, steps: int = 24) -> int:
    """Every iterate and the result; returns how often a step was halved."""
    model, (images, targets) = tiny_net(), tiny_batch()
    eps = EPS[norm]
    attack = APGD(
        eps=eps,
        steps=steps,
        loss=MaskedCrossEntropy() if loss else None,
        norm=norm,
        shrinking=shrinking,
        targeted=targeted,
    )
    seen: list[AttackStep] = []
    result = attack(model, images, targets, on_step=seen.append)
    marked = targets.masked_fill(targets == 255, reference.NO_LABEL)
    stages = [(steps, 1.0)] if not shrinking else [(7, 2.0), (7, 1.5), (10, 1.0)]
    halvings = 0
    for b in range(2):
        start = seen[0].images_adv[b].flatten().tolist()
        assert start != images[b].flatten().tolist()
        before = 0
        for stage_steps, factor in stages:
            start = reference.project(start, images[b].flatten().tolist(), factor * eps, norm)
            run = literal_stage(
                model,
                images[b],
                marked[b],
                start,
                loss=masked if loss else CE,
                watched=CE,
                eps=factor * eps,
                steps=stage_steps,
                norm=norm,
                targeted=targeted,
                before=before,
                total=steps,
            )
            for t in range(stage_steps):
                step = seen[before + t]
                if b not in step.rows:
                    finished = int((marked[b] >= 0).sum()) if targeted else 0
                    assert finished in run.correct[:t], "an image left before its result was final"
                    break
                actual = step.images_adv[step.rows.tolist().index(b)].flatten()
                expected = torch.tensor(run.iterates[t], dtype=torch.float64)
                torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)
            halvings += len(run.halvings)
            start, before = best_iterate(run, targeted), before + stage_steps
        expected = torch.tensor(start, dtype=torch.float64)
        torch.testing.assert_close(result[b].flatten(), expected, rtol=0, atol=1e-9)
    assert_allowed(result, images, eps, norm)
    return halvings


@pytest.mark.parametrize(
    ("norm", "shrinking", "loss", "targeted"),
    partly(
        itertools.product(EPS, *[(False, True)] * 3),
        lambda norm, shrinking, loss, targeted: loss == targeted and (norm == "linf" or not shrinking),
    ),
)
def test_whole_run(norm: str, shrinking: bool, loss: bool, targeted: bool):
    assert check_apgd(norm, targeted, loss, shrinking) > 0, "no step was ever halved: this tests little"


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 100, 300])
def test_checkpoints(steps: int):
    """0.22·T, then intervals shrinking by 0.03·T down to 0.06·T."""
    images = torch.rand(1, 3, 2, 2)
    allowed, rule = ThreatModel(0.1).around(images), AdaptiveStep()
    state = rule.init(images, allowed, steps)
    checked = []
    for t in range(steps):
        rule.update(images, torch.ones_like(images), torch.zeros(1), state, allowed)
        if t and state["since"] == 0:
            checked.append(t)
    assert checked == checkpoints(steps)
    if steps == 100:
        assert checked == [22, 41, 57, 70, 80, 87, 93, 99]


def on_check(change: Callable[..., tuple[Tensor, Tensor]]) -> Defect:
    return around(AdaptiveStep, "_check", change)


def stay_at_a_checkpoint(original: Callable, self: AdaptiveStep, images_adv: Tensor, grad: Tensor, state: dict):
    original(self, images_adv, grad, state)
    return images_adv, grad


def decide_for_the_batch(original: Callable, self: AdaptiveStep, images_adv: Tensor, grad: Tensor, state: dict):
    state["rises"] = state["rises"].mean().expand(len(images_adv))
    return original(self, images_adv, grad, state)


test_defect_is_found = found_by(
    lambda: check_apgd("linf"),
    {
        "first order": (
            replaced(AdaptiveStep, "__init__", lambda self: self.__dict__.update(momentum=1.0, rise=0.75)),
        ),
        "never halve": (on_check(lambda original, self, images_adv, grad, state: (images_adv, grad)),),
        "stay at a checkpoint": (on_check(stay_at_a_checkpoint),),
        "decide for the batch": (on_check(decide_for_the_batch),),
        "half the first step": (after(AdaptiveStep, "init", lambda state: {**state, "size": state["size"] / 2}),),
    },
)
test_other_stages_are_found = found_by(
    lambda: check_apgd("linf", shrinking=True),
    {
        str(changed): (replaced(strong, "SHRINKING", changed),)
        for changed in (((0.3, 2.0), (0.7, 1.0)), ((0.3, 1.5), (0.3, 2.0), (0.4, 1.0)), ((1.0, 1.0),))
    },
)


def test_shares_of_the_stages():
    assert [share for share, _ in SHRINKING] == [0.3, 0.3, 0.4]
    for steps, parts in ((300, (90, 90, 120)), (25, (7, 7, 11))):
        described = APGD(steps=steps, shrinking=True).describe()["stages"]
        assert [(stage["steps"], stage["eps_factor"]) for stage in described] == list(
            zip(parts, (2, 1.5, 1), strict=True)
        )


def test_the_masked_loss_drives_and_the_cross_entropy_steers():
    described = APGD(loss=MaskedCrossEntropy()).describe()
    assert described["loss"] == {"class": "MaskedCrossEntropy"}
    assert described["watched"] == {"class": "CrossEntropy"}
    assert "watched" not in APGD().describe()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_torchattacks(norm: str, monkeypatch: pytest.MonkeyPatch):
    """Through one valid pixel. Theirs compares the first loss with 0, and its best is that of the last misclassified
    iterate: what can be compared are the points at which it looks, from the same start."""
    torchattacks = pytest.importorskip("torchattacks")
    model, (images, _) = tiny_net(), tiny_batch(ignored=False)
    targets = torch.full((2, 7, 6), 255)
    targets[:, 3, 2] = model(images).argmax(1)[:, 3, 2]
    looked: list[Tensor] = []

    class OnePixel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, x: Tensor) -> Tensor:
            looked.append(x.detach().clone())
            return self.net(x)[:, :, 3, 2]

    steps, eps = 30, EPS[norm] / 16
    peer = torchattacks.APGD(OnePixel(), norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, steps=steps, seed=0)
    peer(images, targets[:, 3, 2])
    # Its first look is at the clean image, for its accuracy.
    start = looked[1]
    ours: list[Tensor] = []
    attack = APGD(eps=eps, steps=steps, norm=norm)
    with monkeypatch.context() as patch:
        patch.setattr("robustseg.attacks.threat.AllowedSet.sample", lambda self, noise: start)
        attack(model, images, targets, on_step=lambda step: ours.append(step.images_adv))
    assert len(ours) == steps
    # Later the sign of a gradient that is zero but for rounding differs; by then four checkpoints have passed.
    for t in range(22):
        torch.testing.assert_close(ours[t], looked[t + 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 3, "shrinking": True}, r"steps = 3 leave one of the stages|steps = 3 leave a stage"),
        ({"norm": "l1"}, "norm = 'l1' is not known"),
    ],
)
def test_bad_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        APGD(**settings)


@pytest.mark.parametrize("settings", [{"momentum": 0}, {"momentum": 1.1}, {"rise": -0.1}, {"rise": 2}])
def test_bad_rule(settings: dict):
    with pytest.raises(ValueError, match=r"is outside of"):
        AdaptiveStep(**settings)
