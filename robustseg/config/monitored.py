"""Figures that callbacks monitor: checked before training, by name, by direction and by when they are there.

The names of figures that a run can have are known where each of its callbacks says what it logs: those of Lightning and
of this package do, a callback of somebody else by an attribute ``logged`` (names, or patterns such as ``val/mine/*``).
Another name is refused then. A callback without that attribute may log anything: then a name that is not known is a
caution only, unless it is that of an attack of the suite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from robustseg.callbacks import RobustnessEvaluation
from robustseg.config.modes import as_list, refuse_mode
from robustseg.config.suggest import did_you_mean
from robustseg.resume.runs import RunError

_KNOWN = ("robustseg", "pytorch_lightning", "lightning_fabric")
"""Packages whose callbacks log nothing but what is known here."""
_COUNTERS = ("epoch", "step")
"""Counters of training that a checkpoint may monitor."""


class Monitor(NamedTuple):
    """A callback that monitors a figure."""

    key: str
    """Key of the callback in the configuration, such as ``trainer.callbacks[0]``."""
    callback: pl.Callback
    figure: str


def monitors(checkpoint: ModelCheckpoint, callbacks: Any) -> Iterator[Monitor]:
    """Return the callbacks of a run that monitor a figure.

    Args:
        checkpoint: That of the section ``checkpoint``.
        callbacks: Those of ``trainer.callbacks``: None, one or several.
    """
    places = {f"trainer.callbacks[{place}]": callback for place, callback in enumerate(as_list(callbacks))}
    for key, callback in {"checkpoint": checkpoint, **places}.items():
        if isinstance(figure := getattr(callback, "monitor", None), str):
            yield Monitor(key, callback, figure)


def check_monitors(
    found: Iterable[Monitor], trainer: pl.Trainer, figures: Iterable[str], robustness: RobustnessEvaluation
) -> list[str]:
    """Refuse what cannot be monitored in this run.

    Args:
        found: Callbacks that monitor a figure.
        trainer: Of the run.
        figures: Names of those that the module logs.
        robustness: The suite.

    Returns:
        Cautions about figures that may not be there.

    Raises:
        RunError: A figure does not exist, is not there when the callback looks, or has another direction; the message
            names the key and the remedy.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    declared = [name for callback in callbacks for name in getattr(callback, "logged", ())]
    silent = [callback for callback in callbacks if not _is_known(callback) and not hasattr(callback, "logged")]
    cautions = []
    for monitor in found:
        counters = _COUNTERS if isinstance(monitor.callback, ModelCheckpoint) else ()
        names = sorted({*figures, *declared, *counters})
        refuse_mode(monitor.key, monitor.figure, getattr(monitor.callback, "mode", None))
        if not monitor.figure.startswith("lr-") and not any(fnmatchcase(monitor.figure, name) for name in names):
            why = _missing_attack(monitor.figure, robustness)
            is_own = why or monitor.figure.startswith("test/")
            message = (
                f"{monitor.key}.monitor = {monitor.figure}: {why or 'no such figure is logged in training.'}"
                f"{'' if why else did_you_mean(monitor.figure, names)} There are {', '.join(names)}."
            )
            if is_own or not silent:
                raise RunError(message)
            cautions.append(f"caution: {message} {type(silent[0]).__name__} may log others.")
        if monitor.figure.startswith("val/"):
            _check_times(monitor, trainer, robustness)
    return cautions


def _is_known(callback: pl.Callback) -> bool:
    return type(callback).__module__.partition(".")[0] in _KNOWN


def _missing_attack(figure: str, robustness: RobustnessEvaluation) -> str:
    """Return the remedy for a figure of an attack that does not run at validation."""
    stage, _, rest = figure.partition("/")
    attack = rest.rpartition("/")[0]
    if stage != "val" or attack not in robustness.attacks or figure in robustness.logged:
        return ""
    if not robustness.every_n_epochs:
        return "validations are without attacks: set robustness.every_n_epochs to 1 or more."
    if attack not in robustness.validate_with:
        return f"{attack} does not run at validation: put {attack} into robustness.validate_with."
    return ""


def _check_times(monitor: Monitor, trainer: pl.Trainer, robustness: RobustnessEvaluation) -> None:
    """Refuse a figure of validations that is not there each time the callback looks at it."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    callback: Any = monitor.callback
    about = f"{monitor.key}.monitor = {monitor.figure}"
    if trainer.limit_val_batches == 0:
        raise RunError(f"{about}: there is no validation with trainer.limit_val_batches = 0: raise it.")
    validated = trainer.check_val_every_n_epoch or 1
    looks, at_epoch_end = 1, getattr(callback, "_check_on_train_epoch_end", None)
    if isinstance(callback, ModelCheckpoint):
        if callback._every_n_train_steps or callback._train_time_interval is not None:
            raise RunError(
                f"{about} is of the validation before, and of other weights, at a checkpoint that "
                f"{monitor.key}.every_n_train_steps or train_time_interval asks for: use every_n_epochs."
            )
        looks, at_epoch_end = callback._every_n_epochs or 1, callback._save_on_train_epoch_end
    period = looks if at_epoch_end else math.lcm(validated, looks)
    if period % validated:
        raise RunError(
            f"{about} is not there at the end of every epoch: set trainer.check_val_every_n_epoch = {validated} to a "
            f"divisor of {period}, or leave out what makes {type(callback).__name__} look at epochs' ends."
        )
    every = robustness.every_n_epochs
    if monitor.figure in robustness.logged and period % every:
        raise RunError(
            f"{about} is not there at every validation: set robustness.every_n_epochs = {every} to a divisor of "
            f"{period} (epochs from one look of {type(callback).__name__} to the next), or "
            "trainer.check_val_every_n_epoch or checkpoint.every_n_epochs to a multiple of it."
        )
    if 0 < (trainer.max_epochs or -1) < period:
        raise RunError(
            f"{about} is looked at every {period} epochs, but trainer.max_epochs = {trainer.max_epochs}: lower "
            "trainer.check_val_every_n_epoch or checkpoint.every_n_epochs, or train longer."
        )


def early_end(trainer: pl.Trainer) -> str | None:
    """Explain an end of training before its last epoch and step in a sentence; None if there was none."""
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    is_whole = 0 <= epochs <= trainer.current_epoch or 0 <= steps <= trainer.global_step
    if not trainer.should_stop or is_whole:
        return None
    of = f" of {epochs}" if epochs > 0 else ""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and (reason := callback.stopping_reason_message):
            text = " ".join(reason.split()).removesuffix(" Signaling Trainer to stop.")
            return f"training ended early, in epoch {callback.stopped_epoch + 1}{of}: {text}"
    return f"training ended early, in epoch {trainer.current_epoch}{of}: a callback has stopped it."
