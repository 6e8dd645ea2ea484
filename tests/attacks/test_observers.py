"""Observers of steps: one that reads no logits lets the attack free them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from robustseg.attacks import PGD, AttackStep, SegPGD, StrongEnsemble
from robustseg.attacks.base import reads_no_logits
from robustseg.detectors import OnPatches, ScaleConsistency, ThroughBlur
from robustseg.evaluation import Evaluator, MemorySink
from robustseg.evaluation.attack_stage import AttackStage
from robustseg.studies.detection.views import ConsistencyCurve
from tests.helpers.nets import tiny_batch, tiny_net

from .table import ATTACKS, ROWS, build


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("name", ["pgd", "ensemble"])
def test_logits_are_kept_for_those_that_read_them(name, marked):
    attack = {"pgd": PGD(steps=2), "ensemble": StrongEnsemble(steps=4, class_pixels=[1] * 3)}[name]
    steps: list[AttackStep] = []

    def watch(step: AttackStep) -> None:
        steps.append(step)

    images, targets = torch.rand(2, 3, 8, 8), torch.randint(3, (2, 8, 8))
    model = torch.nn.Conv2d(3, 3, 3, padding=1)
    watched = attack.run(model, images, targets, on_step=reads_no_logits(watch) if marked else watch)
    assert steps
    assert {step.logits.numel() > 0 for step in steps} == {not marked}
    assert torch.equal(watched.images_adv, attack.run(model, images, targets).images_adv)


def test_a_display_reads_none():
    assert AttackStage({"pgd": PGD()}).step.reads_logits is False


class Remembering(nn.Module):
    """A network that notes at each of its backwards if its logits are still in memory."""

    def __init__(self):
        super().__init__()
        self.net = tiny_net()
        self.alive: list[bool] = []

    @property
    def layers(self) -> nn.Module:
        return self.net.layers

    def forward(self, images: Tensor) -> Tensor:
        features = images * 1.0
        logits = self.net(features)
        memory = StorageWeakRef(logits.untyped_storage())
        if features.requires_grad:
            features.register_hook(lambda _: self.alive.append(not memory.expired()))
        return logits


NEED_THEM = ("DeepFool",)
"""Of these another gradient of the same forward needs the logits."""


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("name", [name for name in ATTACKS if ROWS[name].gradient and not ROWS[name].layers])
def test_no_logits_are_kept_through_the_backward(name: str, watched: bool):
    model, stage = Remembering(), AttackStage({"a": build(name)})
    stage.attack("a", 2)
    build(name)(model, *tiny_batch(), on_step=stage.step if watched else None)
    assert model.alive
    if not name.startswith(NEED_THEM):
        assert not any(model.alive)


@pytest.mark.parametrize(
    "attack",
    [PGD(steps=2), SegPGD(steps=2, keep="best"), OnPatches(PGD(steps=2), 3, 2), ThroughBlur(PGD(steps=2), 0.5)],
)
def test_an_evaluation_keeps_no_logits_through_the_backward(attack):
    """With the progress display and a view of the iterates, each of which observes the steps."""
    model, (images, targets) = Remembering(), tiny_batch()
    view = ConsistencyCurve(ScaleConsistency(0.5), [1], 0, ["attack"])
    evaluator = Evaluator({"attack": attack}, 4, MemorySink(), views={"curve": view})
    evaluator.update(model, ["a", "b"], images, targets, AttackStage({"attack": attack}))
    assert model.alive
    assert not any(model.alive)


def test_logits_that_an_observer_reads_would_be_noticed():
    model = Remembering()
    PGD(steps=2)(model, *tiny_batch(), on_step=lambda step: None)
    assert all(model.alive)
