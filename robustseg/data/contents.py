"""The contents of a whole split: class frequencies, ids and a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from robustseg.data.dataset import SegmentationDataset
from robustseg.data.errors import DataError
from robustseg.terminal import track


def count_class_pixels(dataset: SegmentationDataset, num_classes: int, ignore_index: int) -> list[int]:
    """Count the pixels of each class, without augmentation; this reads every sample once.

    Raises:
        DataError: A sample is missing or cannot be used.
    """
    counts = np.zeros(num_classes, dtype=np.int64)
    for index in track(range(len(dataset)), "counting the classes' pixels: image"):
        mask = dataset.arrays(index)[1]
        counts += np.bincount(mask[mask != ignore_index], minlength=num_classes)
    return [int(count) for count in counts]


def unique_ids(dataset: SegmentationDataset, split: str) -> list[str]:
    """Return the ids of the samples, in order.

    Raises:
        DataError: Two samples have the same id.
    """
    ids = [dataset.sample_id(index) for index in range(len(dataset))]
    if len(set(ids)) < len(ids):
        twice = next(sample for sample in ids if ids.count(sample) > 1)
        raise DataError(f"two samples of the {split} split have the id {twice!r}: rename one of the files.")
    return ids


def digest_of(dataset: SegmentationDataset, ids: Sequence[str]) -> str:
    """Compute the SHA-256 over ids, pixels and masks as they are evaluated; this reads every sample once.

    Raises:
        DataError: A sample is missing or cannot be used.
    """
    digest = hashlib.sha256()
    for index, sample in enumerate(track(ids, "reading the data: image")):
        image, mask = dataset.arrays(index)
        digest.update(f"{sample}\0{image.shape}\0{image.dtype}\0{mask.dtype}\0".encode())
        digest.update(image.tobytes())
        digest.update(mask.tobytes())
    return digest.hexdigest()
