"""Figures that callbacks and schedulers monitor: checked before training, by name, by direction and by time.

The names of figures that a run can have are known where the module and each callback say what they log: those of
Lightning and of this package do, a callback of somebody else by an attribute ``logged`` (names, or patterns such as
``val/mine/*``). Another name is refused then. A callback without that attribute may log anything: then a name that is
not known is a caution only, unless it is that of an attack of the suite.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from robustseg.evaluation.figures import FIGURES
from robustseg.shipped.suggest import did_you_mean
from robustseg.training.split import TrainingError

Mode = Literal["min", "max"]
_KNOWN = ("robustseg", "pytorch_lightning", "lightning_fabric")
"""Packages whose classes log nothing but what is known here."""
_COUNTERS = ("epoch", "step")
"""Counters of training that a checkpoint may monitor."""


class Monitor(NamedTuple):
    """A callback or a scheduler that monitors a figure."""

    key: str
    """Key in the configuration, such as ``trainer.callbacks[0]``, or a class."""
    watcher: Any
    figure: str


def direction_of(figure: str) -> Mode | None:
    """Return the mode that keeps the better of two values of a logged figure, by its name's last part; None if
    unknown."""
    name = figure.rpartition("/")[2]
    if name == "skipped" or "loss" in name.split("_"):
        return "min"
    better = {each.logged: each.better for each in FIGURES if each.logged is not None}.get(name)
    return None if better is None else "max" if better == "higher" else "min"


def refuse_mode(key: str, figure: str, mode: object) -> None:
    """Refuse a mode against the direction of a figure of this package.

    Args:
        key: Section of the configuration, or class, that has both.
        figure: Name of the figure; those of somebody else may have any direction.
        mode: ``min`` or ``max``; anything else is not judged here.

    Raises:
        TrainingError: It contradicts the direction.
    """
    direction = direction_of(figure)
    if figure.startswith(("train/", "val/")) and mode in ("min", "max") and direction not in (None, mode):
        better = "higher" if direction == "max" else "lower"
        raise TrainingError(
            f"{key}.mode = {mode}, but {figure} is better when {better}: use {direction}"
            f"{', or leave it out' if '.' in key or key == 'checkpoint' else ''}."
        )


def check_monitors(
    trainer: pl.Trainer, module: pl.LightningModule, figures: Iterable[str], keys: Mapping[int, str] | None = None
) -> list[str]:
    """Refuse what cannot be monitored in this run.

    Args:
        trainer: Of the run, with its callbacks.
        module: The module that it trains.
        figures: Names of those that the module logs.
        keys: Keys of callbacks in the configuration, by ``id``; by default their classes.

    Returns:
        Cautions about figures that may not be there.

    Raises:
        TrainingError: A figure does not exist, is not there when the callback looks, or has another direction; the
            message names the key and the remedy.
    """
    keys = keys or {}
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    declared = [name for callback in callbacks for name in getattr(callback, "logged", ())]
    silent = [each for each in (module, *callbacks) if not _declares(each)]
    cautions = []
    for monitor in _monitors(trainer, keys):
        counters = _COUNTERS if isinstance(monitor.watcher, ModelCheckpoint) else ()
        names = sorted({*figures, *declared, *counters})
        refuse_mode(monitor.key, monitor.figure, getattr(monitor.watcher, "mode", None))
        if not monitor.figure.startswith("lr-") and not _is_among(monitor.figure, names):
            reasons = (each.why_absent(monitor.figure) for each in callbacks if hasattr(each, "why_absent"))
            why = next(filter(None, reasons), "")
            message = (
                f"{monitor.key}.monitor = {monitor.figure}: {why or 'no such figure is logged in training.'}"
                f"{'' if why else did_you_mean(monitor.figure, names)} There are {', '.join(names)}."
            )
            if why or monitor.figure.startswith("test/") or not silent:
                raise TrainingError(message)
            cautions.append(f"caution: {message} {type(silent[0]).__name__} may log others.")
        if monitor.figure.startswith("val/") and isinstance(monitor.watcher, pl.Callback):
            _check_times(monitor, trainer, callbacks, keys)
    return cautions


def _monitors(trainer: pl.Trainer, keys: Mapping[int, str]) -> Iterator[Monitor]:
    """Return the callbacks that monitor a figure, and the schedulers, once they are built."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(figure := getattr(callback, "monitor", None), str):
            yield Monitor(keys.get(id(callback), type(callback).__name__), callback, figure)
    for each in trainer.lr_scheduler_configs:
        if each.reduce_on_plateau and each.monitor is not None:
            yield Monitor(type(each.scheduler).__name__, each.scheduler, each.monitor)


def _declares(each: object) -> bool:
    """Return whether it is known what an object logs, of this package, of Lightning, or by its own ``logged``."""
    foreign = [cls for cls in type(each).__mro__ if cls.__module__.partition(".")[0] not in (*_KNOWN, "builtins")]
    own = [cls for cls in foreign if issubclass(cls, (pl.Callback, pl.LightningModule))]
    return not own or "logged" in vars(each) or any("logged" in vars(cls) for cls in own)


def _is_among(figure: str, names: Collection[str]) -> bool:
    return any(fnmatchcase(figure, name) for name in names)


def _check_times(monitor: Monitor, trainer: pl.Trainer, callbacks: Iterable[Any], keys: Mapping[int, str]) -> None:
    """Refuse a figure of validations that is not there each time the callback looks at it."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    callback: Any = monitor.watcher
    about = f"{monitor.key}.monitor = {monitor.figure}"
    if trainer.limit_val_batches == 0:
        raise TrainingError(f"{about}: there is no validation with trainer.limit_val_batches = 0: raise it.")
    validated = trainer.check_val_every_n_epoch or 1
    looks, at_epoch_end = 1, getattr(callback, "_check_on_train_epoch_end", None)
    if isinstance(callback, ModelCheckpoint):
        if callback._every_n_train_steps or callback._train_time_interval is not None:
            raise TrainingError(
                f"{about} is of the validation before, and of other weights, at a checkpoint that "
                f"{monitor.key}.every_n_train_steps or train_time_interval asks for: use every_n_epochs."
            )
        if not callback._every_n_epochs:
            raise TrainingError(f"{about} is never looked at with {monitor.key}.every_n_epochs = 0: set it to 1.")
        looks, at_epoch_end = callback._every_n_epochs, callback._save_on_train_epoch_end
    period = looks if at_epoch_end else math.lcm(validated, looks)
    if period % validated:
        raise TrainingError(
            f"{about} is not there at the end of every epoch: set trainer.check_val_every_n_epoch = {validated} to a "
            f"divisor of {period}, or leave out what makes {type(callback).__name__} look at epochs' ends."
        )
    for logging in callbacks:
        every = getattr(logging, "every_n_epochs", None)
        if every and _is_among(monitor.figure, getattr(logging, "logged", ())) and period % every:
            key = f"{keys.get(id(logging), type(logging).__name__)}.every_n_epochs"
            raise TrainingError(
                f"{about} is not there at every validation: set {key} = {every} to a divisor of {period} (epochs from "
                f"one look of {type(callback).__name__} to the next), or trainer.check_val_every_n_epoch or "
                "checkpoint.every_n_epochs to a multiple of it."
            )
    if 0 < (trainer.max_epochs or -1) < period:
        raise TrainingError(
            f"{about} is looked at every {period} epochs, but trainer.max_epochs = {trainer.max_epochs}: lower "
            "trainer.check_val_every_n_epoch or checkpoint.every_n_epochs, or train longer."
        )
