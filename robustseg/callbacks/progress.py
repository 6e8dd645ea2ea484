"""The progress of a run: a bar in a terminal, a line per epoch in a log file."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from robustseg.attacks import AttackStep


class AttackProgressBar(RichProgressBar):
    """Lightning's Rich progress bar, with one more line while attacks run in evaluation."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._attack_task: Any = None

    def attack_step(self, name: str, step: AttackStep) -> None:
        """Show that attack ``name`` finished a step."""
        if self.progress is None or not self.is_enabled:
            return
        if self._attack_task is None:
            self._attack_task = self._add_task(step.steps, name)
        self.progress.update(
            self._attack_task, total=step.steps, completed=step.step, description=name, visible=True, refresh=False
        )

    def attacks_done(self) -> None:
        """Hide the attack's line; removing it would break Lightning, which finds its own lines by position."""
        if self.progress is not None and self._attack_task is not None:
            self.progress.update(self._attack_task, visible=False)

    def _reset_progress_bar_ids(self) -> None:
        super()._reset_progress_bar_ids()
        self._attack_task = None


class EpochLines(pl.Callback):
    """One line per epoch, for log files, which a bar would clutter; nothing if the bar is on."""

    def __init__(self) -> None:
        self._start = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock for an epoch that is continued after a resume."""
        self._start = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of an epoch."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's loss, the last clean and robust mIoU, and its time in seconds, including validation."""
        if not trainer.is_global_zero or find_progress_bar(trainer) is not None:
            return
        metrics = trainer.callback_metrics
        shown = [name for name in metrics if name == "train/loss" or name.endswith("/miou")]
        figures = "  ".join(f"{name} {float(metrics[name]):.3f}" for name in shown)
        seconds = time.perf_counter() - self._start
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {figures}  {seconds:.1f} s", flush=True)


def find_progress_bar(trainer: pl.Trainer) -> AttackProgressBar | None:
    """Return the trainer's :class:`AttackProgressBar`, or None without one."""
    bar = trainer.progress_bar_callback
    return bar if isinstance(bar, AttackProgressBar) else None
