"""What every data module has in common: arguments, loaders and the facts about its classes."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import distributed
from torch.utils.data import DataLoader, Sampler

from robustseg.data.bad_samples import BadSamplePolicy, check_policy
from robustseg.data.contents import count_class_pixels, digest_of, unique_ids
from robustseg.data.dataset import SegmentationDataset
from robustseg.data.disk_cache import DiskCache
from robustseg.data.errors import DataError
from robustseg.data.loading import UnpaddedDistributedSampler, collate, end_workers_at_exit, start_worker
from robustseg.data.order import SampleOrder
from robustseg.data.transforms import EvalTransform, TrainTransform, check_size
from robustseg.types import IGNORE_INDEX, Sample

Split = Literal["train", "val", "test"]


class SegmentationDataModule(pl.LightningDataModule, ABC):
    """Data module whose subclasses only say what the classes are and how a split is opened.

    The properties are known as soon as the object exists, before any file is touched.

    Args:
        batch_size: Training images per step and *per process*: on 4 GPUs 8 means 32.
        val_batch_size: Images per step in validation and test, per process; by default ``batch_size``.
        num_workers: Processes that load data, per process that trains; 0 loads in that process itself.
        image_size: (height, width) in pixels that every image is resized to, in training before the augmentation;
            ``None`` keeps the files' size.
        crop_size: (height, width) of training crops; by default ``image_size``.
        scale: Range of the random factor that training images are resized by before the crop.
        flip: Probability of a horizontal flip in training.
        color: Strength of the colour jitter in training, in [0, 1); 0 switches it off.
        augment: False trains on the images as they are; ``crop_size`` and the three arguments above are then unused.
        cache: Keep decoded and resized images in memory: 4 bytes per pixel and image, in every worker process.
        disk_cache: Folder in which decoded and resized samples are kept, 4 bytes per pixel each, for all processes and
            jobs of this machine; whatever changes in a file or in how it is read makes another entry. ``cache`` then
            keeps them in memory as well.
        on_bad_sample: ``"stop"`` at a training sample that cannot be read, or ``"replace"`` it by another one, see
            :class:`~robustseg.data.bad_samples.BadSamples`. Validation and test, whose figures it would falsify, stop.
        global_batch_size: Training images per *update*, over all processes and accumulated batches; ``batch_size``
            is then this divided by their number, whatever is given for it.

    Raises:
        ValueError: An argument is outside its range; the message names it.
    """

    classes: ClassVar[tuple[tuple[str, tuple[int, int, int]], ...]] = ()
    """Name and RGB colour (0 to 255) of each class, in the order of the ids."""

    def __init__(
        self,
        batch_size: int = 8,
        val_batch_size: int | None = None,
        num_workers: int = 2,
        image_size: tuple[int, int] | None = None,
        crop_size: tuple[int, int] | None = None,
        scale: tuple[float, float] = (0.5, 2.0),
        flip: float = 0.5,
        color: float = 0.25,
        augment: bool = True,
        cache: bool = False,
        on_bad_sample: BadSamplePolicy = "stop",
        global_batch_size: int | None = None,
        disk_cache: str | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = _at_least("batch_size", batch_size, 1)
        self.val_batch_size = _at_least("val_batch_size", batch_size if val_batch_size is None else val_batch_size, 1)
        self.num_workers = _at_least("num_workers", num_workers, 0)
        self.image_size = None if image_size is None else check_size("image_size", image_size)
        self.cache = cache
        if disk_cache is not None and not disk_cache.strip():
            raise ValueError("disk_cache = '' names no folder: set data.disk_cache to one, or to null for none.")
        self.disk_cache = disk_cache
        self.on_bad_sample: BadSamplePolicy = check_policy(on_bad_sample)
        self.global_batch_size = (
            None if global_batch_size is None else _at_least("global_batch_size", global_batch_size, 1)
        )
        crop = crop_size or image_size
        if augment and crop is None:
            raise ValueError("crop_size and image_size are both missing: set crop_size to [height, width] in pixels.")
        self.augmentation = TrainTransform(crop, scale, flip, color) if augment and crop else None
        self.datasets: dict[Split, SegmentationDataset] = {}
        self._class_pixels: dict[Split, list[int]] = {}
        self._start = (0, 0)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of their ids."""
        return [name for name, _ in self.classes]

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """RGB colour (0 to 255) of each class, for pictures."""
        return [colour for _, colour in self.classes]

    @property
    def num_classes(self) -> int:
        """Number of classes, void not counted."""
        return len(self.classes)

    @property
    def ignore_index(self) -> int:
        """Id of pixels that belong to no class."""
        return IGNORE_INDEX

    @abstractmethod
    def make_dataset(self, split: Split) -> SegmentationDataset:
        """Open a split; the training split with ``augmentation``, the others without.

        Raises:
            DataError: Its files are missing or cannot be used.
        """

    def test_split(self) -> Split:
        """Split that ``test_dataloader`` reads: ``val`` for data sets without test ground truth."""
        return "test"

    def setup(self, stage: str) -> None:
        """Open the splits of a stage, so that bad files are reported before the first step.

        Raises:
            DataError: Files are missing or cannot be used.
        """
        stages: dict[str, Sequence[Split]] = {"fit": ("train", "val"), "validate": ("val",)}
        if stage == "fit" and self.trainer is not None:
            self.share_batch(self.trainer.world_size, self.trainer.accumulate_grad_batches)
        splits = (self.test_split(),) if stage == "test" else stages.get(stage, ())
        for split in splits:
            self.dataset(split)

    def share_batch(self, processes: int, accumulate: int = 1) -> None:
        """Divide ``global_batch_size``, where there is one, into the batches of one process.

        Args:
            processes: That train.
            accumulate: Batches of a process whose gradients are accumulated.

        Raises:
            DataError: It cannot be divided.
        """
        if self.global_batch_size is None:
            return
        self.batch_size, rest = divmod(self.global_batch_size, processes * accumulate)
        if rest:
            parts = processes * accumulate
            near = max(parts, self.global_batch_size - rest), self.global_batch_size - rest + parts
            raise DataError(
                f"data.global_batch_size = {self.global_batch_size} cannot be divided by {processes} processes × "
                f"{accumulate} accumulated batches: choose {' or '.join(map(str, sorted(set(near))))}, or another "
                "trainer.devices or trainer.accumulate_grad_batches."
            )

    def dataset(self, split: Split) -> SegmentationDataset:
        """Return a split, opened on the first call.

        Raises:
            DataError: Its files are missing or cannot be used.
        """
        if split not in self.datasets:
            dataset = self.make_dataset(split)
            dataset.on_bad_sample = self.on_bad_sample if split == "train" else "stop"
            self._keep_on_disk(dataset)
            self.datasets[split] = dataset
        return self.datasets[split]

    def _keep_on_disk(self, dataset: SegmentationDataset) -> None:
        if self.disk_cache is None:
            return
        dataset.disk_cache = DiskCache(self.disk_cache)
        if not dataset.can_be_kept():
            warnings.warn(
                f"data.disk_cache = {self.disk_cache!r} has no effect: {type(dataset).__name__} does not say what its "
                "samples are made from (fingerprint), so they are read afresh; leave it out.",
                stacklevel=3,
            )

    def class_pixels(self, split: Split = "train") -> list[int]:
        """Count the pixels of each class in a split, without augmentation; it reads every sample once.

        Returns:
            ``num_classes`` counts, void left out: what the balanced losses of :class:`~robustseg.attacks.SEA` ask for.

        Raises:
            DataError: A sample is missing or cannot be used.
        """
        if split in self._class_pixels:
            return list(self._class_pixels[split])
        self._class_pixels[split] = count_class_pixels(self.dataset(split), self.num_classes, self.ignore_index)
        return list(self._class_pixels[split])

    def sample_ids(self, split: Split) -> list[str]:
        """Ids of a split's samples, in order.

        Raises:
            DataError: Its files are missing or cannot be used, or two samples have the same id.
        """
        return unique_ids(self.dataset(split), split)

    def digest(self, split: Split) -> str:
        """SHA-256 over ids, pixels and masks of a split as they are evaluated; it reads every sample once.

        Raises:
            DataError: A sample is missing or cannot be used.
        """
        return digest_of(self.dataset(split), self.sample_ids(split))

    def resize(self) -> EvalTransform | None:
        """Transform to ``image_size``, for ``make_dataset``."""
        return None if self.image_size is None else EvalTransform(self.image_size)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled batches, what is left after the last whole update dropped; see :class:`SampleOrder`.

        Raises:
            DataError: There are too few images for a single batch on every process.
        """
        dataset = self.dataset("train")
        accumulate = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        order = SampleOrder(dataset, self.batch_size, accumulate, num_replicas=_world_size(), rank=_rank())
        order.start_at(*self._start)
        return self._loader(dataset, self.batch_size, sampler=order)

    def state_dict(self) -> dict[str, Any]:
        """Where in the data training stands: ``epoch`` and ``position``, the samples of it that all ranks have seen.

        Lightning asks for it when a checkpoint is written.
        """
        if self.trainer is None:
            return {}
        loop: Any = self.trainer.fit_loop
        epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress
        epoch = epochs.processed
        done = 0 if epochs.ready == epochs.processed else batches.current.processed
        if done >= self.trainer.num_training_batches:  # saved at the validation after an epoch's last batch
            epoch, done = epoch + 1, 0
        return {"epoch": epoch, "position": done * self.batch_size * self.trainer.world_size}

    def state_of(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """What :meth:`state_dict` was when a checkpoint was written."""
        return dict(checkpoint[type(self).__qualname__])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next ``train_dataloader`` start there."""
        self._start = (int(state_dict["epoch"]), int(state_dict["position"]))

    def val_dataloader(self) -> DataLoader[Sample]:
        """Batches of the validation split in order, each image exactly once over all processes.

        Raises:
            DataError: There are fewer images than processes.
        """
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        """Batches of ``test_split()`` in order, each image exactly once over all processes.

        Raises:
            DataError: There are fewer images than processes.
        """
        return self._eval_loader(self.test_split())

    def _eval_loader(self, split: Split) -> DataLoader[Sample]:
        dataset = self.dataset(split)
        sampler = UnpaddedDistributedSampler(dataset) if _world_size() > 1 else None
        return self._loader(dataset, self.val_batch_size, sampler=sampler)

    def _loader(
        self,
        dataset: SegmentationDataset,
        batch_size: int,
        sampler: Sampler[Any] | None = None,
    ) -> DataLoader[Sample]:
        if self.num_workers:
            end_workers_at_exit()
        return DataLoader(
            dataset,
            batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=start_worker,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
        )


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise ValueError(f"{name} = {value} is too small: set data.{name} to {least} or more.")
    return value


def _rank() -> int:
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def _world_size() -> int:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1
