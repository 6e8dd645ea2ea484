"""Each of Lightning's loggers in a run that is trained, killed, continued and evaluated, as docs/loggers.md has it."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytorch_lightning.loggers
import yaml

from robustseg.cli.main import main
from tests.helpers.foreign_callbacks import Notes
from tests.helpers.logged import READERS, csv_file, tensorboard
from tests.helpers.paths import CONF, ROOT

TINY = ["--config", str(CONF / "tiny.yaml"), "--allow_import", "tests"]
FIGURES = {"train/loss", "val/miou", "val/pgd2/miou", "test/clean/miou", "test/pgd2/miou"}
PICTURES = {"val/pgd2", "val/fgsm", "test/fgsm/worst"}
PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}
NOT_RUN = {"CometLogger": "needs an account", "LitLogger": "refused: its class is none of those that a Trainer takes"}
"""Loggers that cannot be tried here, with what the table says of them."""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE", "WANDB_QUIET"):
        monkeypatch.setenv(name, "true")
        if name == "MLFLOW_TRACKING_URI":
            monkeypatch.delenv(name)
    Notes.kept.clear()


def train(root: Path, logger: object, *options: str) -> Path:
    """The folder of the run."""
    own = ["--trainer.default_root_dir", str(root), "--trainer.logger", _text(logger)]
    assert main(["train", *TINY, *own, *options]) == 0
    return root / "tiny" / "version_0"


def _text(logger: object) -> str:
    return logger if isinstance(logger, str) else json.dumps(logger)


def kill_after_first_epoch(run: Path) -> None:
    """Leave the run as a kill in its second epoch does: with its log, and the first epoch's checkpoint."""
    (run / "checkpoints" / "step_00000004.ckpt").unlink()
    (run / "checkpoints" / "last.ckpt").unlink()


def evaluate(run: Path, output: Path) -> Path:
    """The folder of the evaluation."""
    command = ["evaluate", "--config", str(run / "config.yaml"), "--allow_import", "tests", "--check_images", "0"]
    assert main([*command, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--output", str(output)]) == 0
    return output


def pngs(folder: Path) -> set[str]:
    """Tags of the pictures in files."""
    return {str(path.parent.relative_to(folder / "panels")) for path in folder.glob("panels/**/*.png")}


def row_of(name: str, root: Path) -> list[str]:
    """The row of the table on a logger that is run here, as it is seen to be."""
    read, folder = READERS[name], root / "runs"
    run = train(folder, name)
    kill_after_first_epoch(run)
    figures = read(run).steps
    assert train(folder, name, "--ckpt_path", "last") == run
    seen, card = read(run), evaluate(run, root / "evaluation")
    scored = read(card)
    assert [path.name for path in folder.iterdir()] == ["tiny"]
    assert [path.name for path in (folder / "tiny").iterdir()] == ["version_0"]
    assert {"config.yaml", "checkpoints"} <= {path.name for path in run.iterdir()}
    assert set(figures) >= FIGURES
    assert set(seen.steps) >= FIGURES
    assert {"test/clean/miou", "test/pgd2/miou"} <= set(scored.steps)
    assert not any(key.startswith(("train/", "val/")) for key in scored.steps)
    assert set(seen.steps["train/loss"]) == {0, 1, 2, 3}
    assert seen.settings["experiment"] == "tiny"
    assert seen.runs == 1
    took = seen.pictures >= PICTURES
    assert took or pngs(run) >= PICTURES
    assert not (took and pngs(run))
    assert {"test/fgsm/worst", "test/fgsm/best"} <= (scored.pictures if took else pngs(card))
    twice = seen.steps["train/loss"] != [0, 1, 2, 3]
    assert twice == (seen.steps["test/pgd2/miou"] != [4])
    own = {"CSVLogger": "metrics.csv", "TensorBoardLogger": "events.out.tfevents.*"}
    files = own.get(name) or {"WandbLogger": "wandb/", "MLFlowLogger": "mlruns/"}[name]
    assert list(run.glob(files.rstrip("/")))
    return [
        *(name, f"`{files}`", "yes", "yes"),
        "yes" if took else "`panels/`",
        "goes on; what a killed run had logged after its checkpoint is " + ("there twice" if twice else "replaced"),
    ]


def documented() -> dict[str, list[str]]:
    """The rows of the table in docs/loggers.md by logger."""
    lines = (ROOT / "docs" / "loggers.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row for row in rows[2:]}


def test_the_table_has_each_logger_of_lightning():
    """A new one has to be placed: into READERS, where it is run, or into NOT_RUN."""
    exported = set(pytorch_lightning.loggers.__all__) - {"Logger"}
    assert exported == set(READERS) | set(NOT_RUN)
    assert exported == set(documented())
    for name, words in NOT_RUN.items():
        assert documented()[name][1] == words


@pytest.mark.parametrize(
    "name", ["CSVLogger", *(pytest.param(name, marks=pytest.mark.slow) for name in READERS if name != "CSVLogger")]
)
def test_a_run_is_logged_continued_and_evaluated_as_the_table_says(name, tmp_path):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason=f"{PACKAGES[name]} is in the dev extra")
    assert row_of(name, tmp_path) == documented()[name]


def test_several_loggers_and_a_strangers_write_into_one_folder(tmp_path):
    notes = {"class_path": "tests.helpers.foreign_callbacks.Notes"}
    plain = {"class_path": "tests.helpers.foreign_callbacks.Plain"}
    dummy = {"class_path": "pytorch_lightning.loggers.logger.DummyLogger"}
    options = ["--trainer.max_epochs", "1"]
    run = train(tmp_path, ["TensorBoardLogger", "CSVLogger", notes, plain, dummy, "CSVLogger"], *options)
    assert list(tmp_path.iterdir()) == [run.parent]
    assert list(run.parent.iterdir()) == [run]
    both = [csv_file(run), csv_file(run / "CSVLogger_1")]
    assert both[0].steps == both[1].steps
    assert set(both[0].steps) >= FIGURES
    assert tensorboard(run).pictures >= PICTURES
    (strangers,) = Notes.kept
    assert Path(strangers.folder) == run
    assert strangers.pictures >= PICTURES
    assert strangers.names >= FIGURES
    assert strangers.times == 1
    assert (run / "plain.txt").read_text().count("test/pgd2/miou") == 1
    assert not (run / "panels").exists()


@pytest.mark.parametrize("logger", [False, pytest.param("DummyLogger", marks=pytest.mark.exhaustive)])
def test_without_loggers_pictures_are_files_of_the_run(logger, tmp_path):
    if logger:
        logger = f"pytorch_lightning.loggers.logger.{logger}"
    run = train(tmp_path, logger, "--trainer.max_epochs", "1")
    names = {path.name.partition("_")[0] for path in run.iterdir()}
    assert names == {"checkpoints", "config.yaml", "evaluation", "panels"}
    assert pngs(run) >= PICTURES


@pytest.mark.parametrize("inside", ["name", "version"])
def test_a_name_that_would_tear_the_run_apart_is_refused(inside, tmp_path, capsys):
    arguments = {"save_dir": str(tmp_path), inside: "other"}
    command = ["train", *TINY, "--trainer.default_root_dir", str(tmp_path)]
    assert main([*command, "--trainer.logger", json.dumps({"class_path": "CSVLogger", "init_args": arguments})]) == 1
    assert f"{inside} = other" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_logger_elsewhere_goes_on_where_it_was(tmp_path, capsys):
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path / "logs")}}
    run = train(tmp_path / "runs", logger, "--robustness.attacks", "{}")
    own = tmp_path / "logs" / "lightning_logs" / "version_0"
    assert f"CSVLogger writes into {own}" in capsys.readouterr().out
    kill_after_first_epoch(run)
    train(tmp_path / "runs", logger, "--robustness.attacks", "{}", "--ckpt_path", "last")
    assert [path.name for path in own.parent.iterdir()] == ["version_0"]
    assert csv_file(own).steps["train/loss"] == [0, 1, 2, 3]
    assert pngs(run) == set()


@pytest.mark.parametrize(
    "raising",
    ["log_metrics", "log_image", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("finalize", "save"))],
)
def test_a_logger_that_fails_on_the_way_ends_nothing(raising, tmp_path, recwarn):
    broken = {"class_path": "tests.helpers.foreign_callbacks.Broken", "init_args": {"raising": raising}}
    run = train(tmp_path, [broken, "CSVLogger"], "--trainer.max_epochs", "1")
    assert set(csv_file(run).steps) >= FIGURES
    assert pngs(run) >= PICTURES
    said = [str(warning.message) for warning in recwarn if "trainer.logger" in str(warning.message)]
    assert len(said) == 1
    assert "Broken failed (OSError: no space left): it lacks" in said[0]


@pytest.mark.parametrize("raising", ["__init__", "experiment", "log_hyperparams", "version"])
def test_a_logger_that_cannot_start_is_an_error_before_training(raising, tmp_path, capsys):
    broken = {"class_path": "tests.helpers.foreign_callbacks.Broken", "init_args": {"raising": raising}}
    command = ["train", *TINY, "--trainer.default_root_dir", str(tmp_path), "--trainer.logger", json.dumps(broken)]
    assert main(command) == 1
    told = capsys.readouterr()
    assert "trainer.logger: Broken cannot start (OSError: no space left)" in told.err
    assert "epoch 1" not in told.out
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("name", ["CometLogger", "MLFlowLogger", "WandbLogger", "Needing"])
def test_a_missing_package_is_named_at_the_start(name, tmp_path, monkeypatch, capsys):
    package = {"CometLogger": "comet-ml", "Needing": "no_such_package"}.get(name) or PACKAGES[name]
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    path = f"tests.helpers.foreign_callbacks.{name}" if name == "Needing" else name
    assert main(["train", *TINY, "--trainer.default_root_dir", str(tmp_path), "--trainer.logger", path]) == 1
    assert f"{name} needs the package {package}, which is not installed: pip install {package}" in (
        capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is in the dev extra")
def test_two_loggers_of_one_wandb_run_are_refused(tmp_path, capsys):
    both = ["--trainer.logger", json.dumps(["WandbLogger", "WandbLogger"])]
    assert main(["train", *TINY, "--trainer.default_root_dir", str(tmp_path), *both]) == 1
    assert "one run per process" in capsys.readouterr().err


def test_the_default_is_in_the_record_and_false_is_none(tmp_path, capsys):
    run = train(tmp_path, True, "--trainer.max_epochs", "1", "--robustness.attacks", "{}")
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["logger"] is True
    assert list(run.glob("events.*"))
    train(tmp_path, False, "--trainer.max_epochs", "1", "--robustness.attacks", "{}")
    assert "trainer.logger is false" in capsys.readouterr().out
    assert not list((tmp_path / "tiny" / "version_1").glob("events.*"))
