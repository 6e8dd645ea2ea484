"""Attacks cut short: counts and seconds of the whole attack, on a clock that only the model moves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import APGD, PGD, SEA, WorstOf
from robustseg.evaluation.trace import Traced
from robustseg.planning import cut as cutting
from robustseg.planning.cut import CutAttack
from tests.attacks.table import ROWS, build
from tests.helpers.cases import partly
from tests.helpers.nets import tiny_batch, tiny_net

FORWARD, BACKWARD = 1.0, 2.0


class Timed(nn.Module):
    """A network whose forwards and backwards move a clock, for each image."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_net()
        self.layers = self.inner.layers
        self.now = 0.0

    def forward(self, images: Tensor) -> Tensor:
        self.now += FORWARD * len(images)
        logits: Tensor = self.inner(images)
        if logits.requires_grad:
            logits.register_hook(lambda _: self.move(BACKWARD * len(images)))
        return logits

    def move(self, seconds: float) -> None:
        self.now += seconds


def measured(attack, model: Timed, most: int, monkeypatch, **settings):
    monkeypatch.setattr(cutting, "MOST", most)
    cut = CutAttack(attack, lambda: model.now, **settings)
    cut.limit(1e9)
    images, targets = tiny_batch()
    result = cut.attack.run(model, images, targets)
    return cut, cut.take(), result


SHORT = ("PGD", "BIM best", "APGD shrinking", "worst of", "Targeted", "Square", "DAG", "CW", "Universal", "DS best")


@pytest.mark.parametrize("name", partly(ROWS, lambda name: name in SHORT))
def test_a_cut_attack_costs_what_the_whole_one_costs(name, monkeypatch):
    row = ROWS[name]
    attack, model = build(name, 0.05, row.norms[0]), Timed()
    before = copy.deepcopy(attack.describe())
    images, targets = tiny_batch()
    whole = attack.run(model, images, targets)
    took, model.now = model.now, 0.0
    cut, reading, result = measured(attack, model, 2, monkeypatch)
    assert result.images_adv.shape == images.shape  # and within the budget, which run() has asserted
    assert reading.gradients >= float(whole.backwards.double().mean()) - 1e-9
    assert reading.forwards >= float(whole.forwards.double().mean()) - 1e-9
    if not cut.early:
        assert reading.gradients == float(whole.backwards.double().mean())
        assert reading.forwards == float(whole.forwards.double().mean())
        assert reading.seconds == pytest.approx(took)
    if row.cost is not None and max(leaf.steps for leaf in cut.leaves) > 2 and max(row.cost) > 2:
        assert model.now < took  # it was cut short
    # what was measured is not changed
    assert attack.describe() == before
    assert torch.equal(attack.run(model, images, targets).images_adv, whole.images_adv)


def test_a_short_attack_runs_to_its_end(monkeypatch):
    model = Timed()
    images, targets = tiny_batch()
    attack = PGD(steps=3, restarts=2)
    _, reading, result = measured(attack, model, 8, monkeypatch)
    whole = attack.run(Timed(), images, targets)
    assert torch.equal(result.images_adv, whole.images_adv)
    assert (reading.gradients, reading.forwards) == (6, 8)
    assert reading.seconds == reading.passed == len(images) * (8 * FORWARD + 6 * BACKWARD)


def test_a_long_attack_takes_a_few_steps(monkeypatch):
    model = Timed()
    _, reading, _ = measured(PGD(steps=1000), model, 8, monkeypatch)
    assert reading.passed == 8 * 2 * (FORWARD + BACKWARD)
    assert (reading.gradients, reading.forwards, reading.seconds) == (1000, 1000, 6000)


def test_every_member_of_an_ensemble_is_measured(monkeypatch):
    model = Timed()
    attack = WorstOf([PGD(steps=100), SEA(steps=50, class_pixels=[1, 1, 1, 1])])
    cut, reading, _ = measured(attack, model, 2, monkeypatch)
    assert len(cut.leaves) == 4
    assert cut.early
    assert reading.gradients == 100 + 3 * 50
    # three stages of each APGD end with a forward; four members and the clean image have one each, SEA and its own too
    assert reading.forwards == 100 + 3 * (50 + 3) + (1 + 2) + (1 + 3)


def test_time_ends_a_measurement_after_two_steps(monkeypatch):
    model = Timed()
    cut = CutAttack(PGD(steps=100), lambda: model.now)
    cut.limit(0.0)
    cut.attack(model, *tiny_batch())
    assert cut.take().passed == 2 * 2 * (FORWARD + BACKWARD)


@pytest.mark.parametrize("feeds", [False, True])
def test_observers_that_look_at_some_steps_are_shown_all(feeds, monkeypatch):
    """An observer that takes 10 s at each 20th step costs 50 s in 100 steps."""
    model = Timed()
    monkeypatch.setattr(cutting, "MOST", 4)
    cut = CutAttack(PGD(steps=100), lambda: model.now, feeds)
    cut.limit(1e9)
    seen = []

    def look(step):
        seen.append(step.step)
        model.move(10.0 if step.step % 20 == 0 else 0.0)

    cut.attack(model, *tiny_batch(), on_step=look)
    reading = cut.take()
    assert seen == [*range(1, 101 if feeds else 5)]
    assert reading.seconds == 600
    assert reading.watched == (50 if feeds else 0)


def test_traces_are_measured(monkeypatch):
    model = Timed()
    _, reading, result = measured(Traced(PGD(steps=40)), model, 2, monkeypatch, feeds=True)
    assert result.trace.shape == (2, 41, 4)
    assert (reading.gradients, reading.seconds) == (40, 240)


@pytest.mark.parametrize(("attack", "early"), [(PGD(steps=20), False), (PGD(steps=1, keep="best"), False),
                                               (PGD(steps=20, restarts=2), True), (APGD(steps=20), True)])  # fmt: skip
def test_attacks_that_images_may_leave_are_bounds(attack, early):
    assert CutAttack(attack, lambda: 0.0).early is early
