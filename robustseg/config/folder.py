"""The folder of a training run and what goes there whatever its loggers are: configuration, checkpoints, evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from robustseg.config.modes import as_list
from robustseg.files import write_text
from robustseg.resume.callback import CHECKPOINTS, ResumeCheckpoint
from robustseg.resume.runs import next_free, run_folder
from robustseg.shipped import ConfigFileError
from robustseg.shipped.includes import read

_OF_A_START = ("ckpt_path",)
"""Keys that say how a run was started, not what it is."""


class SaveConfig(SaveConfigCallback):
    """Keeps the record of a run, one flat file: a resumed run adds its configuration beside the first one."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the configuration when training starts, and never for a test; give it to the loggers as well."""
        if stage != "fit" or self.already_saved:
            return
        self.already_saved = True
        if not trainer.is_global_zero:
            return
        text = self.parser.dump(self.config, skip_none=False)
        (folder,) = (each.run_folder for each in _callbacks(trainer) if isinstance(each, ResumeCheckpoint))
        assert folder is not None
        _keep(text, Path(folder), resumed=trainer.ckpt_path is not None)
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(text))


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def _keep(text: str, folder: Path, resumed: bool) -> None:
    """Write a configuration into a run's folder, unless the same is there: a run may be requeued every day.

    Args:
        text: The configuration.
        folder: Of the run.
        resumed: Whether the run goes on from a checkpoint; one that had none yet begins anew, with this configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    if path.exists() and resumed:
        settings = _deciding(yaml.safe_load(text))
        if any(_settings(kept) == settings for kept in folder.glob("config*.yaml")):
            return
        path = next_free(folder, "config_resumed", ".yaml")
    write_text(text, path)


def _settings(path: Path) -> Any:
    """Return the settings in a saved configuration; None if it cannot be read, for example after a full disk."""
    try:
        return _deciding(read(path))
    except ConfigFileError:
        return None


def _deciding(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in _OF_A_START}


def training_arguments(trainer: Mapping[str, Any], folder: Path, resumed: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of a training run's trainer in the place of those configured.

    Args:
        trainer: Those configured.
        folder: Of the run.
        resumed: The checkpoint that the run goes on from.
    """
    arguments: dict[str, Any] = {}
    if trainer["logger"] in (False, None, True):
        # TensorBoard leaves out what a killed run had logged after the checkpoint.
        purge = None if resumed is None else resumed["global_step"]
        root, name, version = folder.parent.parent, folder.parent.name, folder.name
        arguments["logger"] = TensorBoardLogger(
            root, name=name, version=version, purge_step=purge, default_hp_metric=False
        )
    else:
        _number_as_run(as_list(trainer["logger"]), folder)
    if SLURMEnvironment.detect():
        # Its own handler would save in the middle of a step.
        arguments["plugins"] = [*as_list(trainer["plugins"]), SLURMEnvironment(auto_requeue=False)]
    return arguments


def _number_as_run(loggers: Sequence[Any], folder: Path) -> None:
    """Let loggers that number their folders beside the run's write into it: theirs would pass for a newer run."""
    for logger in loggers:
        if not isinstance(logger, (TensorBoardLogger, CSVLogger)) or logger._version is not None:
            continue
        if Path(logger.root_dir).resolve() == folder.parent.resolve():
            # a CSVLogger removes the figures that are there
            taken = isinstance(logger, CSVLogger) and (folder / "metrics.csv").exists()
            logger._version = f"{folder.name}/{next_free(folder, 'metrics').name}" if taken else folder.name


def evaluation_arguments(callbacks: Sequence[pl.Callback], checkpoint: str) -> dict[str, Any]:
    """Arguments of an evaluation's trainer in the place of a training run's, whose limits and precision do not hold.

    Args:
        callbacks: Of the training run.
        checkpoint: Whose model is scored.
    """
    return {
        # Lightning under SLURM would load a stale checkpoint that it finds in default_root_dir.
        "default_root_dir": str(run_folder(checkpoint) / "evaluation"),
        "logger": False,
        "enable_checkpointing": False,
        "callbacks": [callback for callback in callbacks if not isinstance(callback, Checkpoint)],
        "precision": "32-true",
        "limit_test_batches": None,
        "fast_dev_run": False,
        "use_distributed_sampler": False,
    }


def keep_checkpoints_in(folder: Path, callbacks: Any) -> None:
    """Let each ModelCheckpoint that has no folder of its own write into the run's, where its loggers' would be taken.

    Args:
        folder: Of the run.
        callbacks: One callback or several.
    """
    for callback in as_list(callbacks):
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            # Its constructor would resolve links, and a run found by another path would not know its best checkpoint.
            callback.dirpath = str(folder / CHECKPOINTS)
