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

import robustseg
from robustseg.config.modes import as_list
from robustseg.files import write_text
from robustseg.opening.regular import read_text
from robustseg.resume.callback import CHECKPOINTS, ResumeCheckpoint
from robustseg.resume.runs import next_free, run_folder
from robustseg.shipped import ConfigFileError
from robustseg.shipped.includes import read
from robustseg.training.loggers import PanelFiles

HEADER = f"robustseg=={robustseg.__version__}"
"""Comment at the head of a saved configuration; those of before November 2026 have none of this package."""

_OF_A_START = ("ckpt_path",)
"""Keys that say how a run was started, not what it is."""


class SaveConfig(SaveConfigCallback):
    """Keeps the record of a run, one flat file: a resumed run adds its configuration beside the first one."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the configuration when training starts, and never for a test."""
        if stage != "fit" or self.already_saved:
            return
        self.already_saved = True
        if not trainer.is_global_zero:
            return
        (folder,) = (each.run_folder for each in _callbacks(trainer) if isinstance(each, ResumeCheckpoint))
        assert folder is not None
        _keep(
            self.parser.dump(self.config, skip_none=False),
            Path(folder),
            resumed=any((Path(folder) / CHECKPOINTS).glob("*.ckpt")),
        )


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def _keep(text: str, folder: Path, resumed: bool) -> None:
    """Write a configuration into a run's folder, unless the same is there: a run may be requeued every day.

    Args:
        text: The configuration.
        folder: Of the run.
        resumed: Whether the run had a checkpoint; one without begins anew, with this configuration.
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


def logged_by_an_earlier_version(folder: Path) -> bool:
    """Return whether a run has events of TensorBoard beside a ``logger: false``, which once was the record of that.

    Args:
        folder: Of the run.
    """
    path = folder / "config.yaml"
    settings = _settings(path)
    if not settings or (settings.get("trainer") or {}).get("logger") is not False:
        return False
    is_earlier = "robustseg==" not in read_text(path).partition("\n")[0]
    return is_earlier and any(folder.glob("events.out.tfevents.*"))


def settings_to_log(text: str) -> dict[str, Any]:
    """Return the settings in a dumped configuration that loggers are given: the same ones on every restart."""
    return _deciding(yaml.safe_load(text))


def training_arguments(trainer: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Arguments of a training run's trainer in the place of those configured.

    Args:
        trainer: Those configured.
        folder: Of the run.
    """
    arguments: dict[str, Any] = {"logger": PanelFiles(folder)}
    if SLURMEnvironment.detect():
        # Its own handler would save in the middle of a step.
        arguments["plugins"] = [*as_list(trainer["plugins"]), SLURMEnvironment(auto_requeue=False)]
    return arguments


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
