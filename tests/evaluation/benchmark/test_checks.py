"""Which images a model is probed on, and what that needs."""

from __future__ import annotations

import pytest
import torch

from robustseg.attacks import PGD
from robustseg.evaluation import EvaluationError
from robustseg.evaluation.benchmark import Shard, run, run_benchmark
from robustseg.evaluation.benchmark import probe as checks
from robustseg.evaluation.benchmark.probe import _alike
from robustseg.types import Sample
from tests.evaluation.benchmark.tiny import card_of, quiet_trainer, tiny_benchmark


def sample(name: str, height: int, label: int) -> Sample:
    return Sample(torch.zeros(3, height, 8), torch.full((height, 8), label), name)


def test_images_of_the_commonest_size_with_something_to_attack():
    samples = [sample("a", 8, 0), sample("b", 9, 0), sample("void", 9, 255), sample("c", 8, 1)]
    assert [chosen.id for chosen in _alike(samples, 255)] == ["a", "c"]
    assert _alike([sample("void", 9, 255)], 255) == []


def test_eps_0_is_not_what_a_model_is_probed_under(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(checks, "probe_model", lambda *_, eps, **__: asked.append(eps) or {})
    monkeypatch.setattr(run, "write_report", lambda card, path, pictures, **_: path.write_text(""))
    attacks = {"nothing": PGD(eps=0, steps=1), "pgd1": PGD(eps="4/255", steps=1)}
    run_benchmark(quiet_trainer(tmp_path), tiny_benchmark(attacks=attacks, check_images=1), tmp_path / "out")
    assert asked == ["4/255"]


def test_a_shard_that_cannot_write_its_evidence_does_not_pass_for_one_that_waits(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checks, "probe_model", lambda *_, **__: {})
    monkeypatch.setattr(checks, "write_json", full)
    for number in (1, 2):
        of = tiny_benchmark(attacks={"pgd1": PGD(steps=1)}, check_images=1, shard=Shard(number, 2))
        if number == 1:
            assert run_benchmark(quiet_trainer(tmp_path), of, tmp_path / "out") is None
        else:
            with pytest.raises(EvaluationError, match="No space left"):
                run_benchmark(quiet_trainer(tmp_path), of, tmp_path / "out")


def test_the_precision_is_that_of_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "write_report", lambda card, path, pictures, **_: path.write_text(""))
    half = tiny_benchmark(attacks={})
    half.model.bfloat16()
    assert tiny_benchmark(model=half.model, attacks={}).facts["precision"] == "bfloat16"
    of = tiny_benchmark(attacks={"pgd1": PGD(steps=1)})
    run_benchmark(quiet_trainer(tmp_path), of, tmp_path / "out")
    assert card_of(tmp_path / "out")["protocol"]["precision"] == "float32"
