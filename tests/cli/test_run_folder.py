"""One folder of a run, whatever its loggers are, with one flat configuration for each that it had."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from robustseg.cli.main import main
from robustseg.config.folder import _keep
from tests.helpers.foreign_callbacks import Notes
from tests.helpers.paths import CONF

TINY = ["--config", str(CONF / "tiny.yaml"), "--allow_import", "tests", "--trainer.max_epochs", "1"]
PICTURES = {"val/pgd2", "val/fgsm"}


def train(root: Path, *options: str) -> Path:
    """The folder of the run."""
    assert main(["train", *TINY, "--trainer.default_root_dir", str(root), *options]) == 0
    return root / "tiny" / "version_0"


def loggers(folder: Path) -> dict[str, object]:
    """Settings of trainer.logger whose own files are elsewhere."""
    csv_logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder / "csv"), "name": "n"}}
    tensorboard = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(folder / "tb"), "name": "n"}}
    notes = {"class_path": "tests.helpers.foreign_callbacks.Notes", "init_args": {"save_dir": str(folder / "notes")}}
    return {"none": False, "csv": csv_logger, "several": [notes, csv_logger, tensorboard]}


@pytest.mark.parametrize("kind", ["none", "csv", "several"])
def test_checkpoints_configuration_and_evaluation_are_in_one_folder(kind, tmp_path):
    Notes.kept.clear()
    logger = json.dumps(loggers(tmp_path / "logs")[kind])
    second = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/miou", "filename": "second"}}
    options = ["--trainer.logger", logger, "--checkpoint.monitor", "val/pgd2/miou", "--checkpoint.filename", "best"]
    run = train(tmp_path / "runs", *options, "--trainer.callbacks", json.dumps([second]))
    assert {"best.ckpt", "second.ckpt", "last.ckpt"} <= {path.name for path in (run / "checkpoints").iterdir()}
    assert (run / "config.yaml").is_file()
    assert list(run.glob("evaluation_*/card.json"))
    assert [path.name for path in (tmp_path / "runs").rglob("*.ckpt") if path.parent != run / "checkpoints"] == []
    assert list((tmp_path / "runs").iterdir()) == [run.parent]
    if kind != "none":
        (table,) = (tmp_path / "logs" / "csv").rglob("metrics.csv")
        rows = list(csv.DictReader(table.open()))
        assert {"train/loss", "val/pgd2/miou", "test/pgd2/miou"} <= {key for row in rows for key in row if row[key]}
        (settings,) = (tmp_path / "logs" / "csv").rglob("hparams.yaml")
        assert yaml.safe_load(settings.read_text())["model"]["attack"]["init_args"]["steps"] == 2
    if kind == "several":
        (notes,) = Notes.kept
        assert {"train/loss", "val/pgd2/miou", "test/pgd2/miou"} <= notes.names
        assert notes.pictures >= PICTURES
        assert any(name.startswith("test/") for name in notes.pictures)
        assert notes.settings["experiment"] == "tiny"
        events = EventAccumulator(str(tmp_path / "logs" / "tb" / "n" / "version_0")).Reload()
        assert set(events.Tags()["images"]) >= PICTURES
        assert "test/pgd2/miou" in events.Tags()["scalars"]
        assert list((tmp_path / "logs").rglob("*.ckpt")) == []
    if kind == "none":
        # the callback that keeps checkpoints is the training's, not the evaluation's
        command = ["evaluate", "--config", str(run / "config.yaml"), "--allow_import", "tests", "--check_images", "0"]
        assert main([*command, "--ckpt_path", str(run / "checkpoints" / "second.ckpt")]) == 0
        assert len(list(run.glob("evaluation_*/card.json"))) == 2


def test_a_root_with_a_tilde_or_a_variable_is_one_folder_to_all(tmp_path, monkeypatch):
    """TensorBoard's logger replaces them by itself, and nothing else of Lightning does."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PART", "runs")
    options = ["--robustness.attacks", "{}", "--experiment", "${PART}1"]
    assert main(["train", *TINY, "--trainer.default_root_dir", "~/$PART", *options]) == 0
    run = tmp_path / "runs" / "runs1" / "version_0"
    assert all(list(run.glob(name)) for name in ("config.yaml", "events.*", "checkpoints/*.ckpt", "evaluation_*"))
    command = ["evaluate", "--config", str(run / "config.yaml"), "--allow_import", "tests", "--check_images", "0"]
    ended = main([*command, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--output", "~/$PART/scores"])
    assert ended == 0
    assert all(list((tmp_path / "runs" / "scores").glob(name)) for name in ("card.json", "events.*"))
    assert list((tmp_path / "here").iterdir()) == []


def test_loggers_that_count_beside_the_run_write_into_its_folder(tmp_path):
    arguments = {"save_dir": str(tmp_path), "name": "tiny"}
    both = [{"class_path": kind, "init_args": arguments} for kind in ("CSVLogger", "TensorBoardLogger")]
    options = ["--trainer.logger", json.dumps(both), "--robustness.attacks", "{}"]
    run = train(tmp_path, *options)
    again = [*options, "--ckpt_path", "last", "--resume", "changed", "--trainer.max_epochs", "2"]
    assert train(tmp_path, *again) == run
    assert list((tmp_path / "tiny").iterdir()) == [run]
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows if row["train/loss"]] == ["0", "0", "1", "1"]
    assert [row["step"] for row in rows if row["test/clean/miou"]] == ["2", "4"]
    assert len(list(run.glob("events.*"))) > 1


def test_a_network_in_a_file_stays_in_the_configuration_of_the_run(tmp_path):
    """The file's later content is that of another run, whose record must not touch this one's."""
    tiny = yaml.safe_load((CONF / "tiny.yaml").read_text())
    network = tmp_path / "net.yaml"
    network.write_text(yaml.safe_dump(tiny["model"]["network"]))
    attack, data = tmp_path / "attack.yaml", tmp_path / "data.yaml"
    attack.write_text(yaml.safe_dump(tiny["model"]["attack"]))
    data.write_text(yaml.safe_dump({"data": tiny["data"]}))
    including = tmp_path / "including.yaml"
    including.write_text("include: [data.yaml]")
    options = ["--model.network", str(network), "--model.attack", str(attack), "--config", str(including)]
    options += ["--robustness.attacks", "{}"]
    run = train(tmp_path / "runs", *options)
    first = (run / "config.yaml").read_text()
    assert yaml.safe_load(first)["model"]["attack"]["init_args"]["steps"] == 2
    assert yaml.safe_load(first)["data"]["init_args"]["train_length"] == 8
    assert yaml.safe_load(first)["model"]["network"]["init_args"]["channels"] == 8
    for _ in range(2):
        assert train(tmp_path / "runs", *options, "--ckpt_path", "last") == run
    tiny["model"]["network"]["init_args"]["dropout"] = 0.3
    network.write_text(yaml.safe_dump(tiny["model"]["network"]))
    train(tmp_path / "runs", *options, "--ckpt_path", "last", "--resume", "changed")
    assert (run / "config.yaml").read_text() == first
    records = sorted(path.name for path in run.glob("*.yaml") if path.name != "hparams.yaml")
    assert records == ["config.yaml", "config_resumed_0.yaml"]
    assert [path.name for path in run.iterdir() if path.name in ("net.yaml", "attack.yaml", "data.yaml")] == []
    resumed = yaml.safe_load((run / "config_resumed_0.yaml").read_text())
    assert resumed["model"]["network"]["init_args"]["dropout"] == 0.3


def test_a_trial_run_leaves_nothing(tmp_path):
    assert main(["train", *TINY, "--trainer.default_root_dir", str(tmp_path), "--trainer.fast_dev_run", "true"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_file_beside_the_configuration_ends_nothing(tmp_path):
    (tmp_path / "config_note.yaml").write_bytes(b"caf\xe9")
    (tmp_path / "config_list.yaml").write_text("- 1")
    for text in ("a: 1\nckpt_path: null\n", "a: 1\nckpt_path: last\n", "a: 2\n"):
        _keep(text, tmp_path, resumed=True)
    kept = {path.name: path.read_text() for path in tmp_path.glob("config*.yaml") if path.stat().st_size > 5}
    assert kept == {"config.yaml": "a: 1\nckpt_path: null\n"}
    assert (tmp_path / "config_resumed_0.yaml").read_text() == "a: 2\n"


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "taken").touch()
    assert main(["train", *TINY, "--trainer.default_root_dir", str(tmp_path / "taken")]) == 1
    message = capsys.readouterr().err
    assert str(tmp_path / "taken") in message
    assert "choose another folder" in message


def test_a_run_without_a_checkpoint_begins_anew_and_is_not_called_resumed(tmp_path, capsys):
    """It was stopped before its first checkpoint, and is started again with other settings."""
    folder = tmp_path / "tiny" / "version_0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{seed_everything: 5}")
    root = ["--trainer.default_root_dir", str(tmp_path), "--robustness.attacks", "{}", "--trainer.max_epochs", "1"]
    assert main(["train", "--config", str(CONF / "tiny.yaml"), *root, "--ckpt_path", "last"]) == 0
    out = capsys.readouterr().out
    assert "starting from the beginning" in out
    assert "resuming" not in out
    assert [path.name for path in folder.glob("config*.yaml")] == ["config.yaml"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed_everything"] == 0
