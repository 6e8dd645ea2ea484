"""Map-style data sets: samples from numpy arrays, with caches, augmentation and bad samples."""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from robustseg.data.bad_samples import BadSamplePolicy, BadSamples
from robustseg.data.disk_cache import DiskCache
from robustseg.data.order import Fetch
from robustseg.data.transforms import EvalTransform, Pixels, TrainTransform
from robustseg.types import Sample


class SegmentationDataset(Dataset[Sample], ABC):
    """Map-style data set; a subclass defines the number of samples, their ids and the reading of one.

    Args:
        resize: Applied to every sample, before the cache.
        augment: Applied anew to each fetched sample, with the seed of the :class:`~robustseg.data.Fetch`; for a plain
            index the seed is drawn from torch's generator.
        cache: Keep the resized arrays in memory (4 bytes per pixel). Each worker process fills a cache of its own,
            which lasts as long as the worker does.
    """

    def __init__(
        self, resize: EvalTransform | None = None, augment: TrainTransform | None = None, cache: bool = False
    ) -> None:
        self.resize = resize
        self.augment = augment
        self.cache = cache
        self._cached: dict[int, tuple[Pixels, Pixels]] = {}
        self.on_bad_sample: BadSamplePolicy = "stop"
        """Policy for unreadable samples in training, that is for a :class:`~robustseg.data.order.Fetch`."""
        self._bad_samples: BadSamples | None = None
        self.disk_cache: DiskCache | None = None
        """Cache of decoded and resized samples that have a :meth:`fingerprint`; None for no cache."""

    @property
    def bad_samples(self) -> BadSamples:
        """Unreadable samples that this process has met."""
        if self._bad_samples is None or self._bad_samples.policy != self.on_bad_sample:
            self._bad_samples = BadSamples(self.on_bad_sample, len(self), self.sample_id)
        return self._bad_samples

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample_id(self, index: int) -> str:
        """Return the name of a sample, unique within all splits and stable across runs."""

    @abstractmethod
    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Produce an H×W×3 RGB image and its H×W mask, with void as the ignore index.

        Raises:
            DataError: The sample cannot be read; the message names it.
        """

    def fingerprint(self, index: int) -> str | None:
        """Return a fingerprint of everything that determines the result of :meth:`read`, or None if unknown.

        For files it is :func:`~robustseg.data.disk_cache.file_fingerprint` of all files that are read, with the
        settings of their conversion to image and ids (the classes, the table from label ids to class ids). Samples
        without one, such as drawn ones, are not kept on disk.

        Raises:
            OSError: A file is missing.
        """
        return None

    def can_be_kept(self) -> bool:
        """Return whether samples have a fingerprint, judged by the first existing one."""
        for index in range(len(self)):
            with contextlib.suppress(OSError):
                return self.fingerprint(index) is not None
        return True

    def as_deployed(self) -> SegmentationDataset:
        """Return the images in the form of validation images: resized, not augmented and not cropped."""
        if self.augment is None:
            return self
        plain = copy.copy(self)
        plain.augment = None
        return plain

    def arrays(self, index: int) -> tuple[Pixels, Pixels]:
        """Return the resized image and mask, without augmentation; read-only when they are cached.

        Raises:
            IndexError: There is no such sample.
            DataError: The sample cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside the {len(self)} samples")
        if index in self._cached:
            return self._cached[index]
        entry = self._entry(index)
        if entry is None or self.disk_cache is None:
            image, mask = self._decoded(index)
        else:
            image, mask = self.disk_cache.load(entry) or self._decoded(index, entry)
        if self.cache or entry is not None:
            image.flags.writeable = mask.flags.writeable = False
        if self.cache:
            self._cached[index] = image, mask
        return image, mask

    def _entry(self, index: int) -> str | None:
        """Return the key of a sample in the disk cache; None if the sample is not kept there."""
        if self.disk_cache is None:
            return None
        try:
            fingerprint = self.fingerprint(index)
        except OSError:  # reading the sample reports the error
            return None
        if fingerprint is None:
            return None
        resize = None if self.resize is None else (type(self.resize).__qualname__, sorted(vars(self.resize).items()))
        return self.disk_cache.key(self.sample_id(index), fingerprint, resize)

    def _decoded(self, index: int, entry: str | None = None) -> tuple[Pixels, Pixels]:
        """Read and resize a sample, and keep it on disk if it has an ``entry``."""
        image, mask = self.read(index)
        if self.resize is not None:
            image, mask = self.resize(image, mask)
        # files that changed during reading match neither of the two keys
        if entry is not None and self.disk_cache is not None and self._entry(index) == entry:
            self.disk_cache.store(entry, image, mask)
        return image, mask

    def __getitem__(self, index: int | Fetch) -> Sample:
        seed = None
        if not isinstance(index, Fetch):
            image, mask = self.arrays(index)
        else:
            seed = index.seed
            index, (image, mask) = self.bad_samples.read(index, self.arrays)
        if self.augment is not None:
            seed = int(torch.randint(2**63 - 1, ()).item()) if seed is None else seed
            image, mask = self.augment(image, mask, seed=seed)
        scaled = image.transpose(2, 0, 1).astype(np.float32)
        scaled /= np.float32(255)  # in place: allocating a large array costs more than the division
        return Sample(
            torch.from_numpy(scaled),
            torch.from_numpy(mask.astype(np.int64)),
            self.sample_id(index),
        )

    def __getstate__(self) -> dict[str, Any]:
        # a spawned worker receives the data set through a pipe: decoding is faster than unpickling every image
        return {**self.__dict__, "_cached": {}, "_bad_samples": None}
