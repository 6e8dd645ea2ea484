"""Observers of steps: one that reads no logits lets the attack free them."""

from __future__ import annotations

import pytest
import torch

from robustseg.attacks import PGD, AttackStep, StrongEnsemble
from robustseg.attacks.base import reads_no_logits
from robustseg.evaluation.attack_stage import AttackStage


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
