"""The progress of a training run: its display, and a line per epoch."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl

from robustseg.terminal import Stage, note, shown
from robustseg.terminal.costs import Costs, Part
from robustseg.terminal.stages import Left

_TRAIN, _VAL = "training", "validation"


class TrainingStage(Stage):
    """The epochs of a training run.

    Args:
        epochs: Number of epochs; None if training ends otherwise.
        updates: Batches that are still trained on; None if unknown.
        validations: Validations that are still to come.
        cost: What one of them takes before it is known, in training batches.
    """

    def __init__(self, epochs: int | None, updates: int | None, validations: int, cost: float):
        self.epoch = 0
        self.epochs = epochs
        self.within = ""
        # a batch's time is measured from the end of the one before
        self.costs = Costs({_TRAIN: Part(1.0, updates or 0, starts_device=True), _VAL: Part(cost, validations)})
        self.known = updates is not None

    def begin_batches(self, now: float) -> None:
        """Begin or go on with training."""
        self.costs.begin(_TRAIN, 1, now)

    def batch_done(self, number: int, total: int | float, now: float) -> None:
        """Note that a batch was trained on."""
        self.within = f"batch {number}/{total}"
        self.costs.begin(_TRAIN, 1, now)

    def begin_validation(self, now: float) -> None:
        """Begin a validation; the time since the last batch belongs to no batch."""
        self.costs.forget()
        self.costs.begin(_VAL, 1, now)
        self.within = "validation"

    def end_validation(self, now: float) -> None:
        """End a validation."""
        self.costs.end(now)

    def parts(self) -> list[str]:  # noqa: D102
        epochs = "" if self.epochs is None else f"/{self.epochs}"
        return [f"epoch {self.epoch}{epochs}", *([self.within] if self.within else [])]

    def left(self, now: float, inner: Left = None) -> float | None:  # noqa: D102
        if inner is not None and inner[1] is not None:
            self.costs.parts[_VAL].expected = inner[0] + inner[1]
        return self.costs.left(now) if self.known else None


class ShowTraining(pl.Callback):
    """A callback that shows the epochs, batches and validations of a training run in the command's display."""

    def __init__(self) -> None:
        self._stage: TrainingStage | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the display."""
        self._stage = TrainingStage(_epochs(trainer), *_still_to_do(trainer), _cost_of_validation(trainer))
        shown().begin(self._stage)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin an epoch."""
        if self._stage is not None:
            self._stage.epoch, self._stage.within = trainer.current_epoch + 1, ""
            self._stage.begin_batches(shown().clock())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note a batch; nothing is read from the device."""
        if self._stage is not None:
            self._stage.batch_done(batch_idx + 1, trainer.num_training_batches, shown().clock())

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a validation."""
        if self._stage is not None and not trainer.sanity_checking:
            self._stage.begin_validation(shown().clock())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End a validation."""
        if self._stage is not None and not trainer.sanity_checking:
            self._stage.end_validation(shown().clock())

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """End the display, also after an error."""
        if self._stage is not None:
            shown().end(self._stage)
            self._stage = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End the display."""
        self.teardown(trainer, pl_module, "fit")


def _epochs(trainer: pl.Trainer) -> int | None:
    return None if trainer.max_epochs in (None, -1) else trainer.max_epochs


def _still_to_do(trainer: pl.Trainer) -> tuple[int | None, int]:
    """Return the batches that are still trained on, None if unknown, and the validations."""
    each, epochs = trainer.num_training_batches, _epochs(trainer)
    if each == float("inf") or not each:
        return None, 0
    ends = [] if epochs is None else [max(0, epochs - trainer.current_epoch) * int(each)]
    if trainer.max_steps != -1:
        ends.append(max(0, trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
    if not ends:
        return None, 0
    batches = min(ends)
    within = trainer.val_check_batch
    if not trainer.enable_validation or within is None or within == float("inf"):
        return batches, 0
    return batches, batches // max(1, int(within)) // max(1, trainer.check_val_every_n_epoch or 1)


def _cost_of_validation(trainer: pl.Trainer) -> float:
    batches = [number for number in trainer.num_val_batches if number != float("inf")]
    return max(1.0, sum(batches) / 3)  # forwards only


class EpochLines(pl.Callback):
    """One line per epoch: the figures that are new, and the time."""

    def __init__(self) -> None:
        self._start = 0.0
        self._printed: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock for an epoch that is continued after a resume."""
        self._start = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of an epoch."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's loss, the mIoU of its validation if it had one, and its time in seconds."""
        if not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        shown_ones = [name for name in metrics if name == "train/loss" or name.endswith("/miou")]
        # Lightning keeps the figures of the last validation; those of a new one are other tensors.
        new = [name for name in shown_ones if self._printed.get(name) is not metrics[name]]
        self._printed = {name: metrics[name] for name in shown_ones}
        figures = "  ".join(f"{name} {float(metrics[name]):.3f}" for name in new)
        seconds = time.perf_counter() - self._start
        total = str(trainer.max_epochs)
        number = f"{trainer.current_epoch + 1:>{len(total)}}"
        note(f"epoch {number}/{total}  {figures}  {seconds:.1f} s")
