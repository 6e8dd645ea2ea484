"""Circumstances besides the settings: another number of threads, version or device is said on resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import robustseg
from robustseg.cli.main import main
from robustseg.resume.checkpoint_files import checkpoint_name
from robustseg.resume.circumstances import other_circumstances
from robustseg.resume.continuation import RUN_KEY
from tests.helpers.paths import CONF

TINY = ["--config", str(CONF / "tiny.yaml"), "--robustness.attacks", "{}"]
SAID = "maybe no longer equal to the bit"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    assert main(["train", *TINY, "--trainer.default_root_dir", str(root), "--save.every_n_steps", "1"]) == 0
    return root / "tiny" / "version_0" / "checkpoints" / checkpoint_name(3)


def resumed(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], **changed: object) -> list[str]:
    """Lines about circumstances when a checkpoint with other ones is continued; None takes an entry out."""
    content = torch.load(checkpoint, weights_only=True)
    before = content[RUN_KEY]["circumstances"]
    for name, value in changed.items():
        before[name.replace("_", "-")] = value
    content[RUN_KEY]["circumstances"] = {name: value for name, value in before.items() if value is not None}
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    assert main(["train", *TINY, "--trainer.default_root_dir", str(tmp_path / "on"), "--ckpt_path", str(path)]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if SAID in line]


def test_the_same_circumstances_are_not_spoken_of(checkpoint, tmp_path, capsys):
    assert resumed(checkpoint, tmp_path, capsys) == []


def test_others_are_named_in_one_line(checkpoint, tmp_path, capsys):
    (line,) = resumed(checkpoint, tmp_path, capsys, threads="64", torch="2.6.0", processor=None)
    assert f"threads of torch 64 there and {torch.get_num_threads()} here" in line
    assert f"torch 2.6.0 there and {torch.__version__} here" in line
    assert "processor" not in line, "an older version did not record it"


@pytest.mark.parametrize(
    ("name", "text"), [("robustseg", "robustseg"), ("device", "device"), ("matmul", "precision of float32 products")]
)
def test_each_is_compared(name, text):
    assert f"{text} one there and two here" in str(other_circumstances({name: "one"}, {name: "two", "else": "x"}))
    assert other_circumstances({name: "one"}, {name: "one"}) is None


def test_a_checkpoint_of_an_older_version_is_said_to_be_one(checkpoint, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    del content[RUN_KEY]["circumstances"]
    content[RUN_KEY]["version"] = "0.0.1"
    torch.save(content, tmp_path / "old.ckpt")
    command = ["train", *TINY, "--trainer.default_root_dir", str(tmp_path / "on")]
    assert main([*command, "--ckpt_path", str(tmp_path / "old.ckpt")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if SAID in line]
    assert f"robustseg 0.0.1 there and {robustseg.__version__} here" in line
