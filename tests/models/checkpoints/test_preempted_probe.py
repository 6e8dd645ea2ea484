"""What catches a model's or a file's errors does not take being told to go for one."""

from __future__ import annotations

import pytest
import torch

from robustseg.attacks import PGD
from robustseg.evaluation.benchmark.run import run_benchmark
from robustseg.models.checkpoints import read as weights
from robustseg.resume.preemption import Preempted
from tests.evaluation.benchmark.tiny import quiet_trainer, tiny_benchmark


@pytest.mark.parametrize("when", [1, 4, 9])
def test_a_signal_during_the_probe_is_no_evidence(tmp_path, monkeypatch, when):
    of = tiny_benchmark(attacks={"pgd": PGD(steps=1)}, check_images=1)
    run_benchmark(quiet_trainer(tmp_path), tiny_benchmark(attacks={"pgd": PGD(steps=1)}, check_images=0), tmp_path)
    calls = 0
    forward = of.model.forward

    def told_to_go(*arguments):
        nonlocal calls
        calls += 1
        if calls == when:
            raise Preempted("SIGTERM received")
        return forward(*arguments)

    monkeypatch.setattr(of.model, "forward", told_to_go)
    with pytest.raises(Preempted):
        run_benchmark(quiet_trainer(tmp_path), of, tmp_path)
    assert not list(tmp_path.glob("checks-*.json"))


def test_a_signal_while_weights_are_read_is_no_damage(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(1)}, tmp_path / "some.pth")

    def told_to_go(*_, **__):
        raise Preempted("SIGTERM received")

    monkeypatch.setattr(torch, "load", told_to_go)
    with pytest.raises(Preempted):
        weights.read_weights(tmp_path / "some.pth")
