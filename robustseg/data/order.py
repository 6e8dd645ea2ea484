"""The order in which training sees its samples, as a function of the run's seed, the epoch and the position."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sized
from typing import NamedTuple

import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from robustseg.data.errors import DataError
from robustseg.types import Sample


class Fetch(NamedTuple):
    """What a data set is asked for in training."""

    sample: int
    """Its index."""
    seed: int
    """Seed of the augmentation."""


def run_seed() -> int:
    """Seed of the run, as set by Lightning's ``seed_everything``; 0 without it."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def derived_seed(*parts: object) -> int:
    """A 63-bit seed that is a function of ``parts``, the same in every process (unlike Python's ``hash``)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class SampleOrder(DistributedSampler[Fetch]):
    """Shuffled samples of an epoch, starting anywhere in it, with nothing to save but where.

    The permutation is a function of (seed, epoch), an augmentation of (seed, epoch, sample): neither depends on the
    number of ranks, of worker processes, or on where a run was interrupted. Ranks take turns, so that k batches of
    each of R ranks hold the same samples as k·R batches of one. What is left after the last whole update of an epoch
    is dropped; another permutation drops others.

    Lightning keeps any ``DistributedSampler`` that it finds in a loader, and calls ``set_epoch``.

    Args:
        dataset: What is sampled from.
        batch_size: Images per batch and rank.
        accumulate: Batches per update; epochs are whole numbers of updates, where there are enough samples for one.
        seed: Of the run; by default :func:`run_seed`.
        num_replicas: Number of ranks; 1 without a process group.
        rank: This process.

    Raises:
        DataError: There are too few samples for one batch on every rank.
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        batch_size: int,
        accumulate: int = 1,
        seed: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, seed=run_seed() if seed is None else seed)
        assert isinstance(dataset, Sized)
        self.length = len(dataset)
        together = batch_size * num_replicas
        if self.length < together:
            raise DataError(
                f"the train split has {self.length} images for {num_replicas} process(es), less than one batch of "
                f"{batch_size} each: set data.batch_size to {self.length // num_replicas} or less."
            )
        whole = together * accumulate if self.length >= together * accumulate else together
        self.total_size = self.length // whole * whole
        self.num_samples = self.total_size // num_replicas
        self.start = 0

    def start_at(self, epoch: int, position: int) -> None:
        """Begin in the middle of an epoch.

        Args:
            epoch: Counted from 0.
            position: Number of samples of that epoch that all ranks together have seen.
        """
        self.epoch, self.start = epoch, position

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of ``epoch``; where that is the one to start in, Lightning has only come to say so."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[Fetch]:
        seed, epoch = self.seed, self.epoch
        generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for position in range(self.start + self.rank, self.total_size, self.num_replicas):
            yield Fetch(order[position], derived_seed(seed, "augmentation", epoch, order[position]))

    def __len__(self) -> int:
        """Samples of a whole epoch on this rank, wherever it starts: Lightning counts its batches from 0."""
        return self.num_samples
