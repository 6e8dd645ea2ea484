"""Progress bar that also shows how far an attack is within an evaluation batch."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from robustseg.attacks import AttackStep


class AttackProgressBar(RichProgressBar):
    """Lightning's Rich progress bar with one more line while attacks run in evaluation."""

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
        """Hide the line; it is not removed, since Lightning finds its own lines by position."""
        if self.progress is not None and self._attack_task is not None:
            self.progress.update(self._attack_task, visible=False)

    def _reset_progress_bar_ids(self) -> None:
        super()._reset_progress_bar_ids()
        self._attack_task = None


def find_progress_bar(trainer: pl.Trainer) -> AttackProgressBar | None:
    """The trainer's :class:`AttackProgressBar`, if it has one."""
    bar = trainer.progress_bar_callback
    return bar if isinstance(bar, AttackProgressBar) else None
