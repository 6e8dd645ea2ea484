"""The order of samples in training, as a function of the run's seed, the epoch and the position."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence, Sized
from typing import NamedTuple

import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from robustseg.data.errors import DataError
from robustseg.types import Sample


class Fetch(NamedTuple):
    """A request to a data set in training: a sample and the seed of its augmentation."""

    sample: int
    """Index of the sample."""
    seed: int
    """Seed of the augmentation."""


def run_seed() -> int:
    """Return the run's seed, as set by Lightning's ``seed_everything``; 0 without it."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def derived_seed(*parts: object) -> int:
    """Derive a 63-bit seed from ``parts``, the same in every process (unlike Python's ``hash``)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class SampleOrder(DistributedSampler[Fetch]):
    """A sampler of shuffled samples that can start anywhere in an epoch; its position is its only state.

    The permutation is a function of (seed, epoch), an augmentation of (seed, epoch, sample). Neither depends on the
    number of ranks or worker processes, or on interruptions of the run. Ranks take turns, so that k batches of each of
    R ranks hold the same samples as k·R batches of one. Samples after the last whole update of an epoch are dropped;
    other epochs drop others.

    Lightning keeps any ``DistributedSampler`` that it finds in a loader, and calls ``set_epoch``.

    Args:
        dataset: The data set to sample from.
        batch_size: Images per batch and rank.
        accumulate: Batches per update; an epoch is a whole number of updates if there are enough samples for one.
        seed: Seed of the run; by default :func:`run_seed`.
        num_replicas: Number of ranks; 1 without a process group.
        rank: Number of this process, counted from 0.
        overfit_batches: Number of batches, or share of all, on each rank: every epoch then takes the same first
            samples in the same order and with the same augmentation; 0 for all samples, shuffled.

    Raises:
        DataError: There are too few samples for one batch on every rank, or for ``overfit_batches``.
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        batch_size: int,
        accumulate: int = 1,
        seed: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
        overfit_batches: float = 0,
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
        self.is_fixed = overfit_batches > 0
        if self.is_fixed:
            self.total_size = together * _fixed_batches(overfit_batches, self.length // together, accumulate)
        self.num_samples = self.total_size // num_replicas
        self.start = 0

    def start_at(self, epoch: int, position: int) -> None:
        """Begin in the middle of an epoch.

        Args:
            epoch: Number of the epoch, counted from 0.
            position: Number of samples of that epoch that all ranks together have seen.
        """
        self.epoch, self.start = epoch, position

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of ``epoch``, unless it is the current one, which :meth:`start_at` may have begun."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[Fetch]:
        seed, epoch = self.seed, self.epoch
        generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
        order: Sequence[int] = torch.randperm(self.length, generator=generator).tolist()
        if self.is_fixed:
            epoch, order = 0, range(self.length)
        for position in range(self.start + self.rank, self.total_size, self.num_replicas):
            yield Fetch(order[position], derived_seed(seed, "augmentation", epoch, order[position]))

    def __len__(self) -> int:
        """Return the samples of a whole epoch on this rank, wherever it starts: Lightning counts batches from 0."""
        return self.num_samples


def _fixed_batches(wanted: float, there: int, accumulate: int) -> int:
    """Return the number of batches of each rank in an epoch of fixed samples."""
    batches = int(wanted * there) if isinstance(wanted, float) else wanted
    if not 1 <= batches <= there:
        raise DataError(
            f"trainer.overfit_batches = {wanted} asks for {batches} of the train split's {there} batches per process: "
            f"use 1 to {there}, or a share of them."
        )
    if batches > accumulate and batches % accumulate:
        raise DataError(
            f"trainer.overfit_batches = {wanted}: {batches} batches are no whole number of updates with "
            f"trainer.accumulate_grad_batches = {accumulate}: use a multiple of that."
        )
    return batches
