"""Figures that callbacks monitor, through the real command line: direction, names, and when they are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from robustseg.cli.main import main
from robustseg.evaluation.figures import FIGURES
from robustseg.training.monitored import direction_of
from tests.helpers.paths import CONF

TINY = ["--config", str(CONF / "tiny.yaml"), "--allow_import", "tests"]
FOREIGN = "tests.helpers.foreign_callbacks"


def callbacks(*described: tuple[str, dict]) -> list[str]:
    """Option with callbacks by class and arguments."""
    listed = [{"class_path": path, "init_args": arguments} for path, arguments in described]
    return ["--trainer.callbacks", json.dumps(listed)]


def stopping(monitor: str, **arguments) -> list[str]:
    return callbacks(("EarlyStopping", {"monitor": monitor, **arguments}))


def train(root: Path, *options: str) -> int:
    return main(["train", *TINY, "--trainer.default_root_dir", str(root), *options])


@pytest.mark.parametrize(
    ("figure", "mode"),
    [
        ("val/miou", "max"),
        ("val/a/b/image_miou", "max"),
        ("train/loss", "min"),
        ("train/loss_adv", "min"),
        ("val/loss", "min"),
        ("train/skipped", "min"),
        ("val/mine/f1", None),
        ("step", None),
    ],
)
def test_figures_have_a_direction(figure, mode):
    assert direction_of(figure) == mode


def test_every_logged_figure_has_one():
    assert all(direction_of(f"val/{each.logged}") for each in FIGURES if each.logged and each.better)


def test_the_lowest_loss_is_kept_and_scored(tmp_path):
    assert train(tmp_path, "--checkpoint.monitor", "train/loss", "--trainer.max_epochs", "3") == 0
    run = tmp_path / "tiny" / "version_0"
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    (best,) = [value for key, value in state.items() if key.startswith("ModelCheckpoint")]
    assert float(best["best_model_score"]) < 4.3, "the losses are 4.37, 4.20 or so, and less"
    (card,) = run.glob("evaluation_*/card.json")
    assert json.loads(card.read_text())["model"]["checkpoint"] == Path(best["best_model_path"]).name
    assert yaml.safe_load((run / "config.yaml").read_text())["checkpoint"]["mode"] == "min"


def test_stopping_goes_on_while_the_figure_rises_and_says_why_it_stops(tmp_path, monkeypatch, capsys):
    from robustseg.metrics import SegmentationScores

    compute, calls = SegmentationScores.compute, []

    def rising(self):
        calls.append(1)  # the first one is of the sanity check
        return {**compute(self), "miou": torch.tensor(min(len(calls), 4) / 10)}

    monkeypatch.setattr(SegmentationScores, "compute", rising)
    path = tmp_path / "stopping.yaml"  # a single callback, in a file
    path.write_text("trainer: {callbacks: {class_path: EarlyStopping, init_args: {monitor: val/miou, patience: 1}}}")
    quick = ["--config", str(path), "--robustness.validate_with", "[]", "--trainer.max_epochs", "9"]
    assert train(tmp_path, *quick) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "ended early" in line]
    assert "in epoch 4 of 9" in line
    assert "val/miou did not improve" in line
    config = yaml.safe_load((tmp_path / "tiny" / "version_0" / "config.yaml").read_text())
    assert config["trainer"]["callbacks"]["init_args"]["mode"] == "max"


def test_a_run_to_its_end_says_nothing_of_an_early_one(tmp_path, capsys):
    assert train(tmp_path, *stopping("val/miou", patience=1, min_delta=1.0)) == 0
    assert "ended early" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--checkpoint.monitor", "val/miou", "--checkpoint.mode", "min"], ["checkpoint.mode = min", "use max"]),
        (["--checkpoint.monitor", "train/loss", "--checkpoint.mode", "max"], ["checkpoint.mode = max", "use min"]),
        (stopping("val/pgd2/miou", mode="min"), ["trainer.callbacks[0].mode = min", "use max"]),
        (callbacks((f"{FOREIGN}.Stopping", {})), ["trainer.callbacks[0].mode = min", "use max"]),
        (["--checkpoint.monitor", "val/mIoU"], ["checkpoint.monitor = val/mIoU", "Did you mean val/miou?", "pgd2"]),
        (["--checkpoint.monitor", "val/loss"], ["checkpoint.monitor = val/loss", "train/loss"]),
        (["--checkpoint.monitor", "train/skipped"], ["train/skipped", "no such figure"]),
        (["--checkpoint.monitor", "mine/f1", *callbacks(("ModelSummary", {}))], ["mine/f1", "no such figure"]),
        (["--checkpoint.monitor", "test/miou", *callbacks((f"{FOREIGN}.Silent", {}))], ["test/miou", "no such figure"]),
        (["--checkpoint.monitor", "val/f1", *callbacks((f"{FOREIGN}.Declared", {}))], ["val/f1", "val/mine/*"]),
        (["--checkpoint.monitor", "train/loss_adv", "--model.attack", "null"], ["train/loss_adv", "train/loss_clean"]),
        (stopping("val/pdg2/miou"), ["trainer.callbacks[0].monitor = val/pdg2/miou", "Did you mean val/pgd2/miou?"]),
        (stopping("epoch"), ["trainer.callbacks[0].monitor = epoch", "no such figure"]),
        ([*stopping("val/fgsm/miou"), "--robustness.validate_with", "[pgd2]"], ["validate_with", "fgsm"]),
        (
            ["--checkpoint.monitor", "val/pgd2/miou", "--robustness.every_n_epochs", "0"],
            ["robustness.every_n_epochs to 1"],
        ),
        ([*stopping("val/pgd2/miou"), "--robustness.every_n_epochs", "2"], ["callbacks[0]", "every_n_epochs = 2"]),
        (
            [*stopping("val/miou", check_on_train_epoch_end=True), "--trainer.check_val_every_n_epoch", "2"],
            ["end of every epoch", "trainer.check_val_every_n_epoch = 2"],
        ),
        (["--checkpoint.monitor", "val/miou", "--trainer.limit_val_batches", "0"], ["trainer.limit_val_batches = 0"]),
        (["--checkpoint.monitor", "val/miou", "--checkpoint.every_n_epochs", "3"], ["trainer.max_epochs = 2"]),
        (["--checkpoint.monitor", "val/miou", "--checkpoint.every_n_train_steps", "1"], ["every_n_train_steps"]),
        (["--checkpoint.save_top_k", "3"], ["save_top_k=3, monitor=None"]),
        (["--model.network.num_classes", "5"], ["model.network.init_args.num_classes = 5", "num_classes = 7"]),
        (["--config", "model: {ignore_index: 5}"], ["model.ignore_index = 5", "ignore_index = 255"]),
    ],
    ids=lambda value: "-".join(value)[:40],
)
def test_what_cannot_be_is_refused_before_training(options, parts, tmp_path, capsys):
    assert train(tmp_path, *options) == 1
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("robustseg: error:")]
    assert all(part in line for part in parts), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "caution"), [("Silent", True), ("Declared", False)])
def test_figures_of_somebody_else_can_be_monitored(name, caution, tmp_path, capsys):
    quick = ["--robustness.attacks", "{}", "--robustness.validate_with", "[]", "--trainer.max_epochs", "1"]
    options = ["--checkpoint.monitor", "val/mine/f1", "--model.network.num_classes", "7"]
    assert train(tmp_path, *quick, *options, *callbacks((f"{FOREIGN}.{name}", {}))) == 0
    assert ("caution: checkpoint.monitor = val/mine/f1" in capsys.readouterr().out) is caution
    assert list((tmp_path / "tiny" / "version_0" / "checkpoints").glob("best_*"))
