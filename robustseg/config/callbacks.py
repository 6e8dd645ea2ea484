"""Callbacks of a configuration: those that no run can have, each with the reason, and progress bars.

docs/training.md has the table of what each of Lightning's does here.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pydoc import locate
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    BasePredictionWriter,
    BatchSizeFinder,
    DeviceStatsMonitor,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    ModelSummary,
    OnExceptionCheckpoint,
    ProgressBar,
    RichProgressBar,
    SpikeDetection,
    StochasticWeightAveraging,
    Timer,
    TQDMProgressBar,
)

from robustseg.config.errors import ConfigError
from robustseg.config.modes import as_list

_IN_A_STEP = (
    "it saves in the middle of a step, from where no run can be continued: use save.every_n_steps or "
    "save.every_n_minutes."
)
REFUSED: dict[type[pl.Callback], str] = {
    BaseFinetuning: "it gives the optimiser groups of parameters that the learning rate schedule does not know: use "
    "model.head_lr_factor for another learning rate of the backbone.",
    BatchSizeFinder: "it trains with another batch size than the configuration says: set data.batch_size.",
    LearningRateFinder: "it trains with another learning rate than the configuration says: set model.optimizer.",
    GradientAccumulationScheduler: "updates would take other numbers of batches than the schedule and the order of "
    "the data are made for: use trainer.accumulate_grad_batches.",
    StochasticWeightAveraging: "it averages after the last checkpoint is written, so that other weights would be "
    "scored: use WeightAveraging, or robustseg.callbacks.EMA.",
    ModelPruning: "its masks are in no checkpoint, so that a continued run would train pruned weights again: prune a "
    "network of your own, or the trained one.",
    SpikeDetection: "it ends a run and lists batches to leave out, but nothing reads the list: use "
    "model.on_non_finite_loss, or trainer.gradient_clip_val.",
    OnExceptionCheckpoint: _IN_A_STEP,
    BasePredictionWriter: "it writes what trainer.predict returns, which no command calls: robustseg evaluate writes "
    "records and pictures.",
}
"""Reason and remedy by class; subclasses are refused as well."""
IN_TERMINALS = (RichProgressBar, TQDMProgressBar)
"""Progress bars that make no sense in a file."""


def refuse_callbacks(config: Namespace) -> None:
    """Refuse classes of callbacks in a parsed configuration.

    Raises:
        ConfigError: There is one.
    """
    for place, entry in enumerate(as_list(config.get("trainer.callbacks"))):
        cls = locate(str(entry.get("class_path"))) if isinstance(entry, Namespace) else type(entry)
        if isinstance(cls, type) and (reason := refusal_of(cls)) is not None:
            raise ConfigError(f"trainer.callbacks[{place}]: {cls.__name__} is not supported: {reason}")


def refusal_of(cls: type) -> str | None:
    """Return why no run can have callbacks of a class; None if it can."""
    return next((reason for refused, reason in REFUSED.items() if issubclass(cls, refused)), None)


def check_callbacks(trainer: pl.Trainer, keys: dict[int, str]) -> None:
    """Refuse settings of callbacks with which no run could be continued, or that would end it at its start.

    Args:
        trainer: The trainer, before training.
        keys: Keys of callbacks in the configuration, by ``id``.

    Raises:
        ConfigError: There is one.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        key = keys.get(id(callback), type(callback).__name__)
        if isinstance(callback, Timer) and callback._duration is not None:
            raise ConfigError(
                f"{key}.duration depends on the machine's speed, so that no run could be continued exactly: limit "
                "epochs or steps; a scheduler's time limit is no end, see docs/clusters.md."
            )
        if isinstance(callback, EarlyStopping) and callback.patience < 0:
            raise ConfigError(f"{key}.patience = {callback.patience}: use 0 or more validations without improvement.")
        if isinstance(callback, ModelSummary) and callback._max_depth < -1:
            raise ConfigError(f"{key}.max_depth = {callback._max_depth}: use 1 or more, or -1 for all modules.")
        if isinstance(callback, ModelCheckpoint):
            _check_checkpoints(callback, key)
        if isinstance(callback, DeviceStatsMonitor) and find_spec("psutil") is None:
            on_cpu = isinstance(trainer.accelerator, CPUAccelerator)
            if callback._cpu_stats or (callback._cpu_stats is None and on_cpu):
                raise ConfigError(f"{key}: figures of the CPU need psutil: pip install psutil, or leave {key} out.")


def _check_checkpoints(callback: ModelCheckpoint, key: str) -> None:
    if getattr(callback, "save_on_exception", False):
        raise ConfigError(f"{key}.save_on_exception = true: {_IN_A_STEP}")
    interval = callback._train_time_interval
    if interval is not None and interval.total_seconds() <= 0:
        raise ConfigError(f"{key}.train_time_interval = {interval} must be positive, or null.")
    if callback.save_last:
        raise ConfigError(
            f"{key}.save_last = {str(callback.save_last).lower()}: last.ckpt leads to the newest checkpoint to "
            "continue from already, see save: leave it out."
        )


def shown_bars(callbacks: Iterable[Any], enabled: bool, in_terminal: bool) -> list[Any]:
    """Return the callbacks without progress bars that are switched off, or that would clutter a file.

    Args:
        callbacks: Those of ``trainer.callbacks``.
        enabled: False if ``trainer.enable_progress_bar`` is.
        in_terminal: Whether the output is a terminal.
    """
    hidden = () if enabled and in_terminal else IN_TERMINALS if enabled else ProgressBar
    return [callback for callback in callbacks if not isinstance(callback, hidden)]


def has_bar(callbacks: Iterable[Any]) -> bool:
    """Return whether one of the callbacks shows progress."""
    return any(isinstance(callback, ProgressBar) for callback in callbacks)
