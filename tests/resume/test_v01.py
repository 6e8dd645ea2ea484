"""A run folder of version 0.1 is resumed, evaluated, read by the leaderboard, and its evaluation goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from robustseg.cli.main import main
from robustseg.resume.continuation import RUN_KEY
from tests.helpers.first_noise import FirstNoise
from tests.helpers.paths import ROOT

FIXTURE = ROOT / "tests" / "fixtures" / "v01"
EVALUATION = "evaluation_36426449"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A copy of the run, where its configuration says that runs lie."""
    shutil.copytree(FIXTURE, tmp_path / "runs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs/v01/version_0")


def train(folder: Path, *options: str) -> int:
    return main(["train", "--config", f"{folder}/config.yaml", "--ckpt_path", "last", *options])


def evaluate(folder: Path, *options: str) -> int:
    checkpoint = str(folder / "checkpoints" / "best_epoch_0_step_2.ckpt")
    return main(["evaluate", "--config", f"{folder}/config.yaml", "--ckpt_path", checkpoint, *options])


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def back_at_step_2(folder: Path) -> dict[str, torch.Tensor]:
    """Remove the last checkpoint, and return its weights."""
    expected = weights(folder / "checkpoints" / "step_00000006.ckpt")
    (folder / "checkpoints" / "last.ckpt").unlink()
    for path in (folder / "checkpoints").glob("step_00000006*"):
        path.unlink()
    return expected


@pytest.mark.slow
def test_it_is_resumed(folder, capsys, monkeypatch):
    """With the noise of its version it ends in its weights."""
    monkeypatch.setattr("robustseg.training.module.NoiseSource", FirstNoise)
    expected = back_at_step_2(folder)
    assert train(folder) == 0
    assert "resuming from runs/v01/version_0/checkpoints/step_00000002.ckpt" in capsys.readouterr().out
    found = weights(folder / "checkpoints" / "last.ckpt")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def test_new_noise_is_said_in_one_line_and_once(folder, capsys):
    back_at_step_2(folder)
    cheap = ["--robustness.attacks", "{}", "--robustness.validate_with", "null", "--checkpoint.monitor", "null"]
    assert train(folder, *cheap) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "noise" in line]
    assert len(said) == 1
    assert "from step 2 on the attacker's noise is of version 2, other numbers for the same seed" in said[0]
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last[RUN_KEY]["noise"] == {"1": 0, "2": 2}
    assert all(bool(tensor.isfinite().all()) for tensor in last["state_dict"].values())
    assert train(folder, *cheap) == 0
    assert "noise" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "kind", [pytest.param("of version 0.1", marks=pytest.mark.slow), "without events", "of this version"]
)
def test_its_tensorboard_goes_on_though_its_configuration_says_false(kind, folder, capsys):
    configuration, events = folder / "config.yaml", folder / "events.out.tfevents.1.host"
    if kind != "without events":
        events.touch()
    if kind == "of this version":  # with false, and for one start with true
        configuration.write_text(f"# robustseg==0.1.0\n{configuration.read_text()}")
    cheap = ["--robustness.attacks", "{}", "--robustness.validate_with", "null", "--checkpoint.monitor", "null"]
    went_on = kind == "of version 0.1"
    for _ in range(1 + went_on):  # the second start has the first one's checkpoint
        assert train(folder, *cheap) == 0
        said = capsys.readouterr().out
        assert ("is of an earlier version" in said) == went_on
        assert ("trainer.logger is false" in said) != went_on
        written = [path for path in folder.glob("events.*") if path.stat().st_size]
        assert bool(written) == went_on


def test_other_settings_than_its_own_are_refused(folder, capsys):
    assert train(folder, "--model.attack.steps", "3") == 1
    assert "attack" in capsys.readouterr().err


def test_its_complete_evaluation_is_kept_with_its_noise(folder, capsys):
    before = json.loads((folder / EVALUATION / "card.json").read_text())
    records = {path: path.read_bytes() for path in (folder / EVALUATION / "records").iterdir()}
    assert evaluate(folder, "--output", str(folder / EVALUATION), "--check_images", "0") == 0
    out, err = capsys.readouterr()
    assert len([line for line in (out + err).splitlines() if "is complete, with noise of version 1" in line]) == 1
    after = json.loads((folder / EVALUATION / "card.json").read_text())
    assert after["protocol"]["noise"] == 1
    for name in before["attacks"]:
        assert after["attacks"][name]["miou"] == before["attacks"][name]["miou"]
    assert after["clean"]["miou"] == before["clean"]["miou"]
    assert {path: path.read_bytes() for path in (folder / EVALUATION / "records").iterdir()} == records
    assert "version 1" in (folder / EVALUATION / "report.html").read_text()


@pytest.mark.parametrize("lacks", ["an attack", "an image", "everything"])
def test_its_incomplete_evaluation_is_refused_in_one_line(lacks, folder, capsys):
    options = []
    if lacks == "an attack":
        options = ["--robustness.attacks.pgd3", "robustseg.attacks.PGD", "--robustness.attacks.pgd3.steps", "3"]
    elif lacks == "everything":
        shutil.rmtree(folder / EVALUATION / "records")
    else:
        (stream,) = (folder / EVALUATION / "records").iterdir()
        stream.write_bytes(stream.read_bytes()[:-100])
    before = {path: path.read_bytes() for path in (folder / EVALUATION).rglob("*") if path.is_file()}
    assert evaluate(folder, "--output", str(folder / EVALUATION), "--check_images", "0", *options) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "noise" in line]
    assert f"{folder / EVALUATION} lacks results, and its noise is of version 1" in said
    assert "Choose another --output, or remove the folder" in said
    assert {path: path.read_bytes() for path in (folder / EVALUATION).rglob("*") if path.is_file()} == before


def test_it_is_evaluated_anew(folder, tmp_path, monkeypatch):
    """With the noise of its version it gets its figures."""
    monkeypatch.setattr("robustseg.evaluation.attacking.NoiseSource", FirstNoise)
    before = json.loads((folder / EVALUATION / "card.json").read_text())
    assert evaluate(folder, "--output", str(tmp_path / "new"), "--check_images", "0") == 0
    after = json.loads((tmp_path / "new" / "card.json").read_text())
    assert after["protocol"]["noise"] == 2
    for name in ("pgd2", "apgd"):
        assert after["attacks"][name]["miou"] == pytest.approx(before["attacks"][name]["miou"], abs=1e-3)


def test_its_card_is_read_by_the_leaderboard(folder, capsys):
    assert main(["leaderboard", str(folder / EVALUATION)]) == 0
    table = capsys.readouterr().out
    assert "best_epoch_0_step_2.ckpt" in table or "FCN8s" in table
    assert "pgd2" in table
