"""Base of the data sets: arguments, splits, facts about the classes, and loaders for any number of processes."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch.utils.data import DataLoader, Dataset, Subset

from robustseg.data.bad_samples import BadSamplePolicy, check_policy
from robustseg.data.contents import count_class_pixels, digest_of, unique_ids
from robustseg.data.dataset import SegmentationDataset
from robustseg.data.disk_cache import DiskCache
from robustseg.data.errors import DataError
from robustseg.data.loading import UnpaddedDistributedSampler, make_loader
from robustseg.data.order import SampleOrder
from robustseg.data.transforms import EvalTransform, TrainTransform, check_size
from robustseg.types import IGNORE_INDEX, Sample

Split = Literal["train", "val", "test"]


class SegmentationData(ABC):
    """Base of all data sets; a subclass defines the classes and opens a split.

    The properties are known on construction, before any file is read. This class does not need Lightning;
    :class:`~robustseg.data.lightning.SegmentationDataModule` makes a data module of it.

    Args:
        batch_size: Training images per step and *per process*: on 4 GPUs 8 means 32.
        val_batch_size: Images per step in validation and test, per process; by default ``batch_size``.
        num_workers: Data workers per training process; 0 loads in that process itself.
        image_size: (height, width) in pixels that every image is resized to, in training before the augmentation;
            ``None`` keeps the files' size.
        crop_size: (height, width) of training crops; by default ``image_size``.
        scale: Range of the random factor that training images are resized by before the crop.
        flip: Probability of a horizontal flip in training.
        color: Strength of the colour jitter in training, in [0, 1); 0 switches it off.
        augment: False trains on the images as they are; ``crop_size`` and the three arguments above are then unused.
        cache: Keep decoded and resized images in memory: 4 bytes per pixel and image, in every worker process.
        disk_cache: Folder in which decoded and resized samples are kept, 4 bytes per pixel each, for all processes and
            jobs of this machine; any change in a file or in its reading makes another entry. ``cache`` then keeps them
            in memory as well.
        on_bad_sample: ``"stop"`` at a training sample that cannot be read, or ``"replace"`` it by another one, see
            :class:`~robustseg.data.bad_samples.BadSamples`. Validation and test always stop, since a replacement would
            falsify their figures.
        global_batch_size: Training images per *update*, over all processes and accumulated batches; ``batch_size``
            is then this divided by their number, and a given ``batch_size`` is not used.

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
        if augment and crop_size and image_size:
            sides = [side * max(scale) for side in image_size]
            if any(side > largest for side, largest in zip(crop_size, sides, strict=True)):
                raise ValueError(
                    f"crop_size = {list(crop_size)} is larger than image_size = {list(image_size)} times the largest "
                    f"scale {max(scale)}: every crop would have a void border; lower it."
                )
        self.augmentation = TrainTransform(crop, scale, flip, color) if augment and crop else None
        self.datasets: dict[Split, SegmentationDataset] = {}
        self._class_pixels: dict[Split, list[int]] = {}

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

    @property
    def labelled(self) -> bool:
        """False if there are images only, with every pixel as void; models are evaluated on them without labels."""
        return True

    @abstractmethod
    def make_dataset(self, split: Split) -> SegmentationDataset:
        """Open a split; the training split with ``augmentation``, the others without.

        Raises:
            DataError: Its files are missing or cannot be used.
        """

    def test_split(self) -> Split:
        """Split that models are scored on: ``val`` for data sets without test ground truth."""
        return "test"

    def prepare_data(self) -> None:  # noqa: B027 - most data sets have nothing to download
        """Download missing files, if the data set supports it; call it on one process, before a split is opened.

        Raises:
            DataError: The download failed.
        """

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

    def count(self, split: Split) -> int | None:
        """Return the number of samples of a split; None if it cannot be opened."""
        try:
            return len(self.dataset(split))
        except DataError:
            return None

    def counts(self) -> dict[str, int]:
        """Return the number of samples of the splits for training, validation and test, as far as they are there."""
        splits: tuple[Split, ...] = ("train", "val", self.test_split())
        return {split: count for split in splits if (count := self.count(split)) is not None}

    def summary(self) -> str:
        """Return the open splits with their numbers of samples in one line."""
        told = [f"{split} {len(dataset)}" for split, dataset in self.datasets.items()]
        return f"{type(self).__name__}: images: {', '.join(told)}; scored on {self.test_split()}"

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
            ``num_classes`` counts without void, for the balanced losses of :class:`~robustseg.attacks.SEA`.

        Raises:
            DataError: A sample is missing or cannot be used, or there are no masks.
        """
        if not self.labelled:
            raise DataError("the data have no masks to count the classes of: use attacks without balanced losses.")
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

    def process_batch_size(self, processes: int = 1, accumulate: int = 1) -> int:
        """Compute the training images in one process's batch: ``batch_size``, or its share of ``global_batch_size``.

        Args:
            processes: Number of training processes.
            accumulate: Batches of a process whose gradients are accumulated.

        Raises:
            DataError: ``global_batch_size`` cannot be divided.
        """
        if self.global_batch_size is None:
            return self.batch_size
        parts = processes * accumulate
        share, rest = divmod(self.global_batch_size, parts)
        if rest:
            near = max(parts, self.global_batch_size - rest), self.global_batch_size - rest + parts
            raise DataError(
                f"data.global_batch_size = {self.global_batch_size} cannot be divided by {processes} processes × "
                f"{accumulate} accumulated batches: choose {' or '.join(map(str, sorted(set(near))))}, or another "
                "trainer.devices or trainer.accumulate_grad_batches."
            )
        return share

    def train_loader(
        self,
        processes: int = 1,
        rank: int = 0,
        accumulate: int = 1,
        start: tuple[int, int] = (0, 0),
        overfit_batches: float = 0,
    ) -> DataLoader[Sample]:
        """Make shuffled batches without the samples after the last whole update; see :class:`SampleOrder`.

        Args:
            processes: Number of training processes.
            rank: Rank of this process among them.
            accumulate: Batches of a process whose gradients are accumulated.
            start: Epoch, and the number of its samples seen by all processes together.
            overfit_batches: Batches, or share of all, of each process that every epoch repeats; 0 for all, shuffled.

        Raises:
            DataError: There are too few images for a single batch on every process, or for ``overfit_batches``.
        """
        dataset, size = self.dataset("train"), self.process_batch_size(processes, accumulate)
        order = SampleOrder(
            dataset, size, accumulate, num_replicas=processes, rank=rank, overfit_batches=overfit_batches
        )
        order.start_at(*start)
        return make_loader(dataset, size, self.num_workers, order, rank)

    def eval_loader(
        self, split: Split, processes: int = 1, rank: int = 0, first: int | None = None
    ) -> DataLoader[Sample]:
        """Make batches of a split in order, each image exactly once over all processes.

        Args:
            split: Usually ``val`` or :meth:`test_split`.
            processes: Number of evaluating processes.
            rank: Rank of this process among them.
            first: Number of images to use, the first of the split; by default all.

        Raises:
            DataError: There are fewer images than processes.
        """
        dataset: Dataset[Sample] = self.dataset(split).as_deployed()
        if first is not None:
            dataset = Subset(dataset, range(first))
        sampler = UnpaddedDistributedSampler(dataset, processes, rank) if processes > 1 else None
        return make_loader(dataset, self.val_batch_size, self.num_workers, sampler, rank)


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise ValueError(f"{name} = {value} is too small: set data.{name} to {least} or more.")
    return value
