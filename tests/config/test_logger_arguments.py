"""Arguments of loggers that lead them to the folder of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from pytorch_lightning.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from robustseg.config.logger_arguments import Home, arguments_of

RUN = Home(Path("runs/tiny/version_3"), Path("runs"), "tiny", True, 40)
EVALUATION = Home(Path("runs/tiny/version_3/evaluation_1"), Path("runs"), "tiny", False, 0)


def filled(kind: type[Logger], home: Home, kept: Any = None, **given: Any) -> dict[str, Any]:
    entry = Namespace(class_path=f"pytorch_lightning.loggers.{kind.__name__}", init_args=Namespace(**given))
    found = arguments_of(entry, kind, home, kept, "")
    return {**vars(found.entry.init_args), **found.entry.dict_kwargs, "removed from": found.purge_step}


def test_comet_has_its_project_folder_and_key():
    found = filled(CometLogger, RUN, "key")
    assert (found["project"], found["name"], found["experiment_key"]) == ("tiny", "version_3", "key")
    assert found["offline_directory"] == "runs/tiny/version_3"


def test_a_server_of_mlflow_and_a_project_of_wandb_are_kept(monkeypatch):
    found = filled(MLFlowLogger, RUN, tracking_uri="https://server", experiment_name="mine")
    assert found["experiment_name"] == "mine"
    assert "save_dir" not in found
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert "project" not in filled(WandbLogger, RUN, save_dir=".")
    assert filled(WandbLogger, RUN, save_dir=".")["save_dir"] == "runs/tiny/version_3"
    assert filled(WandbLogger, RUN, save_dir="mine")["save_dir"] == "mine"


def test_a_saved_configuration_is_one_without_a_place_of_its_own():
    for given in ({}, {"save_dir": None, "name": "lightning_logs", "version": None}, {"save_dir": "runs"}):
        found = filled(CSVLogger, RUN, **given)
        assert Path(found["save_dir"], found["name"], found["version"]) == RUN.folder


@pytest.mark.parametrize("folder", ["out", "a/out", "../out", "../../out", "/out", "/a/b/out"])
def test_an_evaluation_is_logged_into_any_folder(folder):
    found = filled(TensorBoardLogger, EVALUATION._replace(folder=Path(folder)), save_dir="runs")
    assert TensorBoardLogger(found["save_dir"], found["name"], found["version"]).log_dir
    assert Path(TensorBoardLogger(found["save_dir"], found["name"], found["version"]).log_dir) == Path(folder)


@pytest.mark.parametrize(
    ("home", "version", "own", "removed"),
    [
        (RUN, "version_7", None, 40),  # the one it had before a restart
        (RUN, "mine", "mine", 40),
        (EVALUATION, "version_8", None, 0),
        (EVALUATION, "mine", "mine", None),  # that of the training run
        (RUN._replace(purge_step=None), None, "mine", None),
    ],
)
def test_a_logger_elsewhere_loses_figures_of_its_own_only(home, version, own, removed):
    for kind in (TensorBoardLogger, CSVLogger):
        found = filled(kind, home, version, save_dir="logs", name="n", version=own)
        assert found["version"] == (own or version)
        assert found["removed from"] == removed
        assert found.get("purge_step") == (removed if kind is TensorBoardLogger else None)
