"""Lightning data module around any data set; the rest of ``robustseg.data`` works without Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from torch import distributed
from torch.utils.data import DataLoader

from robustseg.data.base import SegmentationData, Split
from robustseg.data.errors import DataError
from robustseg.types import Sample


class SegmentationDataModule(pl.LightningDataModule):
    """Data module of a data set: splits open at the start of a stage, checkpoints hold training's place in the data.

    Args:
        data: The data set.
        overfit_batches: Training batches of each process, or share of all, that every epoch repeats, with the same
            augmentation; validation then scores these samples as well, without augmentation. 0 for all samples,
            shuffled. It is for debugging, in the place of Lightning's argument of the Trainer, which would replace the
            order of the data.
    """

    def __init__(self, data: SegmentationData, overfit_batches: float = 0) -> None:
        super().__init__()
        self.data = data
        self.overfit_batches = overfit_batches
        self.batch_size = data.batch_size
        """Training images per step and process; see :meth:`share_batch`."""
        self._start = (0, 0)

    @property
    def global_batch_size(self) -> int | None:
        """Training images per update over all processes, if that is set; otherwise None."""
        return self.data.global_batch_size

    def share_batch(self, processes: int, accumulate: int = 1) -> None:
        """Set ``batch_size`` to one process's share of ``global_batch_size``, if that is set.

        Args:
            processes: Number of training processes.
            accumulate: Batches of a process whose gradients are accumulated.

        Raises:
            DataError: ``global_batch_size`` cannot be divided.
        """
        self.batch_size = self.data.process_batch_size(processes, accumulate)

    def prepare_data(self) -> None:
        """Download missing files, if the data set is configured to."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Open the splits of a stage, so that bad files are reported before the first step.

        Raises:
            DataError: Files are missing or cannot be used, or there are no masks to train on.
        """
        if getattr(self.trainer, "overfit_batches", 0):
            raise DataError(
                "Trainer(overfit_batches=…) would replace the order of the data: give overfit_batches to "
                "SegmentationDataModule instead."
            )
        if stage in ("fit", "validate") and not self.data.labelled:
            raise DataError("the data have no masks (data.mask_folder is null): training and validation need them.")
        if stage == "fit" and self.trainer is not None:
            self.share_batch(self.trainer.world_size, self.trainer.accumulate_grad_batches)
        stages: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        for split in (self.data.test_split(),) if stage == "test" else stages.get(stage, ()):
            self.data.dataset(split)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Make shuffled batches of the training split, from the present place of training on.

        Raises:
            DataError: There are too few images for a single batch on every process.
        """
        return self.data.train_loader(*_place(), self._accumulate, self._start, self.overfit_batches)

    def batches(self, processes: int, accumulate: int) -> int:
        """Return the number of training batches of each process in an epoch.

        Args:
            processes: Number of training processes.
            accumulate: Batches of a process whose gradients are accumulated.

        Raises:
            DataError: There are too few images for a single batch on every process.
        """
        return len(self.data.train_loader(processes, 0, accumulate, overfit_batches=self.overfit_batches))

    @property
    def _accumulate(self) -> int:
        return 1 if self.trainer is None else self.trainer.accumulate_grad_batches

    def val_dataloader(self) -> DataLoader[Sample]:
        """Make batches of the validation split in order, each image exactly once over all processes.

        With ``overfit_batches`` they are the images that are trained on.

        Raises:
            DataError: There are fewer images than processes.
        """
        processes, rank = _place()
        if not self.overfit_batches:
            return self.data.eval_loader("val", processes, rank)
        images = self.batches(processes, self._accumulate) * self.batch_size * processes
        return self.data.eval_loader("train", processes, rank, images)

    def test_dataloader(self) -> DataLoader[Sample]:
        """Make batches of the test split in order, each image exactly once over all processes.

        Raises:
            DataError: There are fewer images than processes.
        """
        return self.data.eval_loader(self.data.test_split(), *_place())

    def state_dict(self) -> dict[str, Any]:
        """Return training's place in the data: ``epoch``, and ``position``, its samples that all ranks have seen.

        Lightning calls this when it writes a checkpoint. The entry has the name of the data set; checkpoints of
        version 0.1 have it among their own entries.
        """
        if self.trainer is None:
            return {}
        loop: Any = self.trainer.fit_loop
        epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress
        epoch = epochs.processed
        done = 0 if epochs.ready == epochs.processed else batches.current.processed
        if done >= self.trainer.num_training_batches:  # saved at the validation after an epoch's last batch
            epoch, done = epoch + 1, 0
        position = done * self.batch_size * self.trainer.world_size
        return {self._name: {"epoch": epoch, "position": position}}

    def state_of(self, checkpoint: Mapping[str, Any]) -> dict[str, int] | None:
        """Read ``epoch`` and ``position`` of a checkpoint, also of version 0.1; None if it is from other data."""
        states = checkpoint.get(type(self).__qualname__, checkpoint)
        found = states.get(self._name) if isinstance(states, Mapping) else None
        if found is None:
            return None
        if not isinstance(found, Mapping) or any(type(found.get(key)) is not int for key in ("epoch", "position")):
            raise DataError(f"the checkpoint's {self._name} is no place in the data: give another checkpoint.")
        return {key: found[key] for key in ("epoch", "position")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next ``train_dataloader`` start at the saved place."""
        if self._name in state_dict:
            self.start_at(**state_dict[self._name])

    def start_at(self, epoch: int, position: int) -> None:
        """Let the next ``train_dataloader`` start in the middle of an epoch.

        Args:
            epoch: Counted from 0.
            position: Number of samples of that epoch that all ranks together have seen.
        """
        self._start = (int(epoch), int(position))

    @property
    def _name(self) -> str:
        return type(self.data).__qualname__


def data_of(trainer: pl.Trainer) -> object:
    """Return the data set of a trainer; for a data module of another package the module itself; None without any."""
    module = getattr(trainer, "datamodule", None)
    return module.data if isinstance(module, SegmentationDataModule) else module


def _place() -> tuple[int, int]:
    """Return the number of processes and the rank of this one."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size(), distributed.get_rank()
    return 1, 0
