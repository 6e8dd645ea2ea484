"""Callback that writes checkpoints for exact continuation and ends a run on a scheduler's signal."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import distributed

from robustseg.data.lightning import SegmentationDataModule
from robustseg.resume.checkpoint_files import checkpoint_name
from robustseg.resume.checkpoint_io import AtomicCheckpointIO, BackgroundCheckpointIO
from robustseg.resume.checkpoint_state import OUTLINE, check_state, outlines
from robustseg.resume.circumstances import CIRCUMSTANCES_KEY, circumstances, other_circumstances
from robustseg.resume.continuation import (
    NOISE_SINCE,
    RUN_KEY,
    Resume,
    check_continuation,
    close_epoch,
    noise_since,
    rescale_batches,
    run_facts,
    run_record,
)
from robustseg.resume.preemption import Preempted, PreemptionSignals
from robustseg.terminal.text import write
from robustseg.training.split import TrainingError
from robustseg.types import Batch

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints within a run's folder."""

_SHARE = 0.01
"""Largest share of the time for checkpoints at the ends of epochs."""


class ResumeCheckpoint(Checkpoint):
    """Callback that writes checkpoints to continue from: ``step_<n>.ckpt`` of a run, and a link ``last.ckpt``.

    The link leads to the newest checkpoint. Checkpoints are written between two updates, where weights, optimiser,
    schedule, callbacks and loop counters determine the rest of the run: random numbers and the order of the data are
    functions of the seed and of the position of training (:class:`~robustseg.data.SampleOrder`,
    :func:`~robustseg.training.seeding.seed_step`). A run that was killed at any point and continued ends with the same
    bits as an uninterrupted one. Values logged with ``on_epoch=True`` in training are not kept within an epoch.

    On SIGTERM or SIGUSR1 on any rank, all ranks write a checkpoint after the same step and raise
    :class:`~robustseg.resume.preemption.Preempted`. A signal during validation ends it without a checkpoint: the
    newest one leads to the same validation.

    Args:
        every_n_steps: Updates between checkpoints; None for no checkpoints by steps.
        every_n_minutes: Minutes between checkpoints, by any rank's clock; None for no checkpoints by time.
        every_n_epochs: Epochs between checkpoints at the end of an epoch, after its validation; 0 for only the last
            one. Skipped while writing would take more than 1 % of the time, as with epochs of seconds.
        keep: Number of checkpoints to keep; 2 or more, so that a damaged newest one costs only a little time.
        asynchronous: Write in the background, from a copy of the state in the main memory.
        resume: Allowed differences from the run that wrote the checkpoint, see
            :func:`~robustseg.resume.continuation.check_continuation`.
        settings: Further settings that must agree: plain values, nested; the command line puts the configuration here.
        signals: Receiver of the signals; by default the callback's own, for the duration of training.
        run_folder: Folder of the run; by default the logger's folder.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = 15.0,
        every_n_epochs: int = 1,
        keep: int = 2,
        asynchronous: bool = False,
        resume: Resume = "exact",
        settings: Mapping[str, Any] | None = None,
        signals: PreemptionSignals | None = None,
        run_folder: str | Path | None = None,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps = {every_n_steps} must be at least 1, or null.")
        if every_n_minutes is not None and not 0 < every_n_minutes < math.inf:
            raise ValueError(f"every_n_minutes = {every_n_minutes} must be positive, or null.")
        if every_n_epochs < 0:
            raise ValueError(f"every_n_epochs = {every_n_epochs} is negative: use 0 for only the last one.")
        if keep < 2:
            raise ValueError(f"keep = {keep}: use 2 or more, so that there is another one when the newest is damaged.")
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.every_n_epochs = every_n_epochs
        self.keep = keep
        self.asynchronous = asynchronous
        self.resume: Resume = resume
        self.settings = settings
        self._own_signals = PreemptionSignals()
        self.signals = signals or self._own_signals
        self.run_folder = run_folder
        self.folder: Path | None = None
        self._facts: dict[str, Any] = {}
        self._noise: Mapping[str, int] = NOISE_SINCE
        self._due = False
        self._saved_step = -1
        self._new_epoch = self._finished = False
        self._written = time.monotonic()
        self._took = 0.0
        self._group: Any = None

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint of this process's run; None before the first."""
        return None if self._saved_step < 0 or self.folder is None else self.folder / checkpoint_name(self._saved_step)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Replace Lightning's checkpoint files by atomic ones, and find the folder of the run."""
        if stage != "fit":
            return
        self.signals.install()
        kind = BackgroundCheckpointIO if self.asynchronous else AtomicCheckpointIO
        trainer.strategy.checkpoint_io = kind(keep=self.keep)
        # rank 0's folder, requested on all ranks: Lightning broadcasts it
        home = trainer.log_dir if self.run_folder is None else trainer.strategy.broadcast(str(self.run_folder))
        self.folder = Path(home or trainer.default_root_dir) / CHECKPOINTS
        module = getattr(trainer, "datamodule", None)
        if isinstance(module, SegmentationDataModule):
            self._facts = run_facts(trainer, module)
        if trainer.world_size > 1 and distributed.is_initialized():
            # on the CPU: the agreement of the ranks must not wait for a GPU
            self._group = distributed.new_group(backend="gloo")

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse a checkpoint that this run cannot continue; convert its batch counts to this run's batches."""
        if trainer.state.fn != "fit" or not self._facts:
            return
        for line in check_continuation(checkpoint, self._facts, self.settings, self.resume):
            _say(trainer, line)
        self._noise = noise_since(checkpoint)
        record = checkpoint[RUN_KEY]
        known = record.get(CIRCUMSTANCES_KEY) or {"robustseg": record.get("version")}
        if note := other_circumstances(known, circumstances(trainer)):
            _say(trainer, note)
        # not compared with its outlines, since Lightning adds to the loops of its older versions
        check_state(checkpoint, "to go on from")
        position = rescale_batches(checkpoint, self._facts)
        module: Any = getattr(trainer, "datamodule", None)
        start = module.state_of(checkpoint)  # Lightning does not find the state of version 0.1
        if start is None and self.resume != "changed":
            raise TrainingError("the checkpoint holds no place in the data to go on from: give another one.")
        if start is not None:
            rescaled = position is not None and start["position"] > 0
            module.start_at(start["epoch"], position if rescaled else start["position"])
        self._finished = bool(checkpoint[RUN_KEY].get("finished")) and self.resume != "changed"
        assert self.folder is not None
        for state in checkpoint["callbacks"].values():
            _follow(state, self.folder)
        self._saved_step = int(checkpoint["global_step"])
        self._new_epoch = trainer.fit_loop._iteration_based_training() and close_epoch(checkpoint)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the record for the check of a continuation."""
        checkpoint[RUN_KEY] = {
            **run_record(self._facts, self.settings, self._noise),
            "finished": self._finished,
            CIRCUMSTANCES_KEY: circumstances(trainer),
            OUTLINE: outlines(checkpoint),
        }

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the signal handlers again: Lightning replaces that of SIGTERM shortly before."""
        self.signals.install()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the signal handlers again, and check that all ranks continue from the same step."""
        self.signals.install()
        self._written = time.monotonic()
        if self._finished:
            trainer.should_stop = True  # early stopping had ended the run
        if self._new_epoch:
            trainer.fit_loop.epoch_loop.restarting = False
        step = torch.tensor([trainer.global_step, -trainer.global_step])
        highest, lowest = self._agree(step).tolist()
        if highest != -lowest:
            raise RuntimeError(
                f"the processes go on from different steps ({-lowest} to {highest}): the file system shows them "
                "different checkpoints; give --ckpt_path the path of one."
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Refuse a batch of another size than at the start, before it changes the weights.

        Raises:
            TrainingError: A callback has changed the number of images in a batch, or of batches in an update.
        """
        found = {"batch_size": len(batch.images), "accumulate_grad_batches": trainer.accumulate_grad_batches}
        for name, value in found.items():
            if self._facts and value != self._facts[name]:
                section = "data" if name == "batch_size" else "trainer"
                raise TrainingError(
                    f"{section}.{name} was {self._facts[name]} at the start of the run and is {value} at step "
                    f"{trainer.global_step}: a callback has changed it, and the run could not be continued; set "
                    f"{section}.{name} itself, and leave the callback out."
                )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Write a checkpoint if it is due or a signal has arrived, on all ranks after the same step."""
        loop = trainer.fit_loop
        updated = not loop._should_accumulate()
        if updated and self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            self._due = True
        # A continuation from here would skip the end of the epoch, above all its validation.
        if not updated or loop.epoch_loop._is_training_done or _validates(trainer):
            return
        minutes = (time.monotonic() - self._written) / 60
        due = self._due or (self.every_n_minutes is not None and minutes >= self.every_n_minutes)
        leave, due = self._wanted(due)
        if leave or due:
            self._save(trainer)
        if leave:
            # Lightning passes the step's figures to the loggers after this hook.
            trainer._logger_connector.update_train_step_metrics()
            self._leave(trainer)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Leave a validation immediately after a signal: it is repeated from the newest checkpoint."""
        if trainer.state.fn == "fit" and self.signals.received is not None:
            self._leave(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint at the end of an epoch."""
        loop: Any = trainer.fit_loop
        epochs = loop.epoch_progress.current.processed
        last = trainer.should_stop or epochs == loop.max_epochs or trainer.global_step == loop.max_steps
        every = self.every_n_epochs and epochs % self.every_n_epochs == 0 and self._is_worthwhile()
        leave, due = self._wanted(bool(last or every or self._due))
        self._finished = bool(trainer.should_stop and loop._can_stop_early)
        if leave or due:
            self._save(trainer)
        if leave and not last:
            self._leave(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Wait for the background writes."""
        io = trainer.strategy.checkpoint_io
        if isinstance(io, AtomicCheckpointIO):
            io.wait()
        if self.signals is self._own_signals:
            self.signals.restore()
        else:
            self.signals.install()

    def _is_worthwhile(self) -> bool:
        """Return whether the last checkpoint is old enough that the next one takes a small share of the time."""
        return time.monotonic() - self._written >= self._took / _SHARE

    def _wanted(self, due: bool) -> tuple[bool, bool]:
        """Return whether any rank has to leave, and whether a checkpoint is due on any rank."""
        leave, due_anywhere = self._agree(torch.tensor([self.signals.received is not None, due]).long()).tolist()
        return bool(leave), bool(due_anywhere)

    def _agree(self, values: torch.Tensor) -> torch.Tensor:
        """Return the maximum of each value over the ranks."""
        if self._group is not None:
            distributed.all_reduce(values, distributed.ReduceOp.MAX, group=self._group)
        return values

    def _save(self, trainer: pl.Trainer) -> None:
        self._due = False
        if self._saved_step == trainer.global_step or getattr(trainer, "fast_dev_run", False):
            return
        assert self.folder is not None
        start = time.monotonic()
        for logger in trainer.loggers:
            # unsaved figures would be lost in a kill and never logged again
            logger.save()
        trainer.save_checkpoint(self.folder / checkpoint_name(trainer.global_step), weights_only=False)
        self._saved_step = trainer.global_step
        self._written = time.monotonic()
        self._took = self._written - start

    def _leave(self, trainer: pl.Trainer) -> None:
        io = trainer.strategy.checkpoint_io
        if isinstance(io, AtomicCheckpointIO):
            io.wait()
        received = self.signals.received
        # other ranks may not have received a signal
        name = "a signal on another process" if received is None else received.name
        raise Preempted(f"{name} at step {trainer.global_step}; continues from {self.newest or 'the start'}")


def _validates(trainer: pl.Trainer) -> bool:
    """Return whether a validation follows this batch."""
    loop: Any = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))


def _follow(state: Any, folder: Path) -> None:
    """Update the paths of a ModelCheckpoint's best checkpoints after the run's folder was moved.

    Otherwise Lightning forgets them, and so keeps worse ones, if the folder has a new name.

    Args:
        state: State of a callback, changed in place if it is that of a ModelCheckpoint.
        folder: Present folder of the checkpoints.
    """
    if not isinstance(state, dict) or not isinstance(state.get("best_k_models"), dict):
        return
    before = str(state.get("dirpath"))
    if not state["best_k_models"] or not all((folder / Path(path).name).is_file() for path in state["best_k_models"]):
        return

    def moved(path: str) -> str:
        return str(folder / Path(path).name) if path and str(Path(path).parent) == before else path

    state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = moved(str(state.get(key) or ""))
    state["dirpath"] = str(folder)


def _say(trainer: pl.Trainer, line: str) -> None:
    if trainer.is_global_zero:
        write(f"robustseg: {line}")
