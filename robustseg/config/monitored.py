"""Figures that the callbacks of a configuration monitor, by their keys, and the reason of an early end."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping

from robustseg.config.modes import as_list


def keys_of_callbacks(config: Any) -> dict[int, str]:
    """Return the keys of the callbacks of a built configuration, by their ``id``."""
    callbacks = {f"trainer.callbacks[{place}]": each for place, each in enumerate(as_list(config.trainer.callbacks))}
    built = {"checkpoint": config.checkpoint, "robustness": config.robustness, **callbacks}
    return {id(callback): key for key, callback in built.items()}


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
