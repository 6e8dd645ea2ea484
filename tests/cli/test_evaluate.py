"""What evaluate says of honest models and of models that only look robust, and what leaderboard makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from robustseg.cli.main import main
from tests.helpers.paths import CONF


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model trained long enough to tell classes apart."""
    root = tmp_path_factory.mktemp("runs")
    options = {"trainer.max_epochs": "12", "trainer.limit_train_batches": "null", "data.train_length": "64",
               "model.attack": "null", "model.optimizer": "torch.optim.AdamW", "model.optimizer.lr": "0.01",
               "robustness.attacks": "null",
               "robustness.validate_with": "null"}  # fmt: skip
    arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
    command = ["train", "--config", str(CONF / "tiny.yaml"), *arguments]
    assert main([*command, "--trainer.default_root_dir", str(root)]) == 0
    return root / "tiny" / "version_0"


SUITE = """
robustness:
  suite: short
  attacks:
    fgsm: {class_path: FGSM}
    pgd4: {class_path: PGD, init_args: {steps: 4}}
    cospgd4: {class_path: CosPGD, init_args: {steps: 4}}
"""


def evaluate(run: Path, output: Path, *options: str) -> int:
    suite = output.parent / "suite.yaml"
    suite.write_text(SUITE)
    command = ["evaluate", "--config", str(run / "config.yaml"), "--config", str(suite), "--output", str(output)]
    return main([*command, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--check_images", "2", *options])


def card_of(folder: Path) -> dict:
    return json.loads((folder / "card.json").read_text())


@pytest.fixture(scope="module")
def honest(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest") / "out"
    assert evaluate(run, folder, "--strict") == 0
    return folder


def test_an_honest_model_passes_strict(honest):
    card = card_of(honest)
    assert card["verdict"] != "unreliable"
    assert [flag["number"] for flag in card["flags"]] == list(range(1, 11))
    assert card["protocol"]["suite"] == "short"
    assert card["data"]["splits"]["train"] == 64
    assert card["data"]["splits"]["test"] == card["data"]["split_images"]
    assert {"card.md", "report.html", "protocol.json", "records"} <= {path.name for path in honest.iterdir()}


@pytest.mark.parametrize(
    ("network", "flags"), [("OneHotFCN", {1}), ("RoundingFCN", {3}), ("NoisyFCN", {1})], ids=lambda value: str(value)
)
def test_a_model_that_only_looks_robust_is_unreliable(run, tmp_path, network, flags, capsys):
    options = [
        "--model.network.class_path",
        f"tests.helpers.broken_nets.{network}",
        "--allow_import",
        "tests.helpers.broken_nets",
    ]
    assert evaluate(run, tmp_path / "out", *options, "--strict") == 3
    card = card_of(tmp_path / "out")
    assert card["verdict"] == "unreliable"
    assert flags <= {flag["number"] for flag in card["flags"] if flag["verdict"] == "unreliable"}
    said = capsys.readouterr().out
    assert "unreliable" in said
    assert "robustseg: SyntheticScenes: images: test " in said
    if network == "OneHotFCN":
        assert "autograd" in card["attacks"]["pgd4"]["error"]
    # without --strict it is said, but the command did what it was asked for
    assert evaluate(run, tmp_path / "out", *options) == 0


def test_leaderboard(honest, tmp_path, capsys):
    board = tmp_path / "board.html"
    assert main(["leaderboard", str(honest), "--html", str(board), "--markdown", str(tmp_path / "board.md"),
                 "--csv", str(tmp_path / "board.csv"), "--latex", str(tmp_path / "board.tex")]) == 0  # fmt: skip
    assert (tmp_path / "board.csv").read_text(encoding="utf-8").startswith("protocol,protocol note,rank,model,")
    assert r"\begin{tabular}" in (tmp_path / "board.tex").read_text(encoding="utf-8")
    assert "<script" not in board.read_text()
    assert "worst-case pixel_acc" in (tmp_path / "board.md").read_text()
    capsys.readouterr()
    other = tmp_path / "other"
    shutil.copytree(honest, other)
    card = card_of(other)
    card["protocol"]["seed"] = 1
    card["model"]["sha256"] = "0" * 64
    (other / "card.json").write_text(json.dumps(card))
    assert main(["leaderboard", str(honest), str(other)]) == 1
    assert "other/card.json: it was altered" in capsys.readouterr().err
    del card["crc32"]
    (other / "card.json").write_text(json.dumps(card))
    assert main(["leaderboard", str(honest), str(other)]) == 1
    error = capsys.readouterr().err
    assert "protocol.seed" in error
    assert "--group" in error
    assert main(["leaderboard", str(honest), str(other), "--group"]) == 0
    assert main(["leaderboard", str(tmp_path)]) == 1
    assert "no such file" in capsys.readouterr().err
