"""benchmarks/gpu.py: every row at tiny size on the CPU, and a row that fails for each kind of fault."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from robustseg.attacks import CosPGD, NoiseSource, SegPGDLoss
from tests.docs.gpu_script import BENCHMARKS, TINY, rows_of
from tests.helpers.paths import ROOT


@pytest.mark.slow
@pytest.mark.timeout(600)  # a hundred seconds of processor time, on a busy machine
def test_every_row_is_there_and_right_on_the_cpu(tmp_path):
    command = [
        sys.executable,
        str(BENCHMARKS / "gpu.py"),
        *TINY,
        "--minutes",
        "9",
        "--output",
        str(tmp_path / "gpu.md"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=580)
    written = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert written.strip() == done.stdout.strip()
    rows = rows_of(written)
    for name in ("PGD", "SegPGD", "CosPGD", "APGD", "DS", "MIFGSM", "Square", "DAG", "CW"):
        assert rows[f"{name}, CPU against device"][0] == "ok"
    for name in ("start noise, CPU against device", "CosPGD in bf16 against float32"):
        assert rows[name][0] == "ok"
    for name in (
        "PGD twice",
        "CosPGD leaves no trace",
        "training in 32-true, resumed",
        "training in bf16-mixed, resumed",
    ):
        assert rows[name][0] == "ok"
    speed = {name: row for name, row in rows.items() if row[0] == "measured"}
    assert {"PSPNet small 65², fp32", "SegFormer small 64², bf16, channels_last"} <= speed.keys()
    assert any("compiled" in name for name in speed)
    assert all("img/s" in row[1] and "TFLOP/s" in row[1] and "of the bare loop" in row[1] for row in speed.values())
    known = {name for name in rows if name == "float32 is float32" or name.endswith(", synchronisations")}
    half = [name for name in rows if name.endswith(" in fp16 against float32")]
    assert len(half) == 3
    if rows[half[0]][0] == "not run":  # a search in fp16 is for CPUs that have it
        assert {rows[name][1] for name in half} == {"this CPU does not compute in it"}
        known |= {*half}
    assert {row[0] for name, row in rows.items() if name not in known} == {"ok", "measured"}, written
    assert done.returncode == any(rows[name][0] == "FAILED" for name in known)
    for fact in ("command: python benchmarks/gpu.py --device cpu", "commit: ", "torch", "device: CPU", "seed: 0"):
        assert fact in written


def test_a_part_of_the_rows_runs_and_is_written(gpu, capsys, tmp_path):
    target = tmp_path / "gpu.md"
    assert gpu.main([*TINY, "--match", "CosPGD twice", "--output", str(target)]) == 0
    written = target.read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == written.strip()
    assert rows_of(written).keys() == {"CosPGD twice"}
    assert rows_of(written)["CosPGD twice"][:2] == ["ok", "equal to the bit"]
    assert written.strip().endswith("1 rows: 1 ok; of correctness 0 failed and 0 not run.")


def _result(monkeypatch, change):
    """Let CosPGD return ``change(result, images, number of the call)``."""
    run, calls = CosPGD.run, []

    def changed(self, model, images, targets, **options):
        calls.append(1)
        result = run(self, model, images, targets, **options)
        return result._replace(images_adv=change(result.images_adv, images, len(calls)))

    monkeypatch.setattr(CosPGD, "run", changed)


def other_noise(monkeypatch, gpu):
    uniform, calls = NoiseSource.uniform, []

    def drawn(self, like):
        calls.append(1)
        return uniform(self, like) + (1e-7 if len(calls) > 3 else 0)

    monkeypatch.setattr(NoiseSource, "uniform", drawn)


def other_result(monkeypatch, gpu):
    _result(monkeypatch, lambda found, images, call: (found - 2e-5 * (call % 2)).abs())


def traces(monkeypatch, gpu):
    _result(monkeypatch, lambda found, images, call: (found, torch.rand(1), images.mul_(0.5))[0])


def reads(monkeypatch, gpu):
    loss = SegPGDLoss.__call__

    def reading(self, logits, *rest):
        logits.sum().item()
        return loss(self, logits, *rest)

    monkeypatch.setattr(SegPGDLoss, "__call__", reading)


def weak_halves(monkeypatch, gpu):
    run = CosPGD.run

    def weak(self, model, images, targets, search=None, **options):
        result = run(self, model, images, targets, search=search, **options)
        return result._replace(images_adv=images) if search else result

    monkeypatch.setattr(CosPGD, "run", weak)


def forgetful_checkpoints(monkeypatch, gpu):
    saved = gpu.training._Saved.on_train_epoch_end

    def late(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            with torch.no_grad():
                next(pl_module.parameters()).mul_(1 + 1e-6)
            saved(self, trainer, pl_module)
            with torch.no_grad():
                next(pl_module.parameters()).div_(1 + 1e-6).add_(1e-6)

    monkeypatch.setattr(gpu.training._Saved, "on_train_epoch_end", late)


def dropout_of_its_own(monkeypatch, gpu):
    torch_seed = torch.manual_seed
    seeds = iter(range(1000))
    monkeypatch.setattr(gpu.training.torch, "manual_seed", lambda seed: torch_seed(next(seeds)))


def no_kernel(monkeypatch, gpu):
    def broken(*_):
        raise RuntimeError("no kernel | image\nfor this device")

    monkeypatch.setattr(gpu.speed, "bare_loop", broken)


@pytest.mark.parametrize(
    ("row", "breaking", "reason"),
    [
        ("start noise", other_noise, "uniform torch.float32: "),
        pytest.param(
            "CosPGD, CPU against device",
            other_result,
            "values beyond 1e-05: 100.000 % in float64",
            marks=pytest.mark.slow,
        ),
        ("CosPGD twice", other_result, "100.00% of the values differ"),
        pytest.param("CosPGD leaves no trace", traces, "a global random state, the images", marks=pytest.mark.slow),
        pytest.param("SegPGD, synchronisations", reads, "1.00 per step: more than 3 or 0", marks=pytest.mark.slow),
        pytest.param("CosPGD in bf16", weak_halves, "weaker by more than a point", marks=pytest.mark.slow),
        pytest.param("32-true", forgetful_checkpoints, " tensors differ", marks=pytest.mark.slow),
        ("deterministic:", dropout_of_its_own, " gradients differ"),
        ("PSPNet small 65², fp32", no_kernel, "RuntimeError: no kernel ¦ image for this device"),
    ],
)
def test_what_is_broken_is_a_failed_row(gpu, monkeypatch, tmp_path, row, breaking, reason):
    breaking(monkeypatch, gpu)
    target = tmp_path / "gpu.md"
    status = gpu.main([*TINY, "--match", row, "--output", str(target)])
    ((verdict, found, _),) = rows_of(target.read_text(encoding="utf-8")).values()
    assert verdict == "FAILED"
    assert reason in found
    assert status == (0 if breaking is no_kernel else 1)  # speed is no correctness
