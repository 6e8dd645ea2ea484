"""Loaders: batches from samples, on one process and on several."""

from __future__ import annotations

import functools
import multiprocessing
import random
import signal
import threading
from collections.abc import Iterator, Sequence, Sized
from multiprocessing import util
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.distributed import DistributedSampler

from robustseg.data.errors import DataError
from robustseg.types import Batch, Sample


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack B samples of one size into a batch.

    Raises:
        DataError: The samples differ in size.
    """
    sizes = {tuple(sample.target.shape): sample.id for sample in samples}
    if len(sizes) > 1:
        (first, first_id), (second, second_id) = list(sizes.items())[:2]
        raise DataError(
            f"cannot batch images of different sizes: {first_id} is {first[0]}x{first[1]}, {second_id} is "
            f"{second[0]}x{second[1]} pixels; set image_size, or val_batch_size: 1 to evaluate them as they are."
        )
    return Batch(
        torch.stack([sample.image for sample in samples]),
        torch.stack([sample.target for sample in samples]),
        [sample.id for sample in samples],
    )


def make_loader(
    dataset: Dataset[Sample], batch_size: int, num_workers: int, sampler: Sampler[Any] | None = None, rank: int = 0
) -> DataLoader[Sample]:
    """Make a loader whose workers are seeded, leave signals alone and end with this process.

    Args:
        dataset: The data set to load.
        batch_size: Samples in a batch.
        num_workers: Number of data workers; 0 loads in this process.
        sampler: Order of the samples; by default that of the data set.
        rank: Rank of this process, for the workers' seeds.
    """
    if num_workers:
        end_workers_at_exit()
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=num_workers,
        worker_init_fn=functools.partial(start_worker, rank=rank),
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=collate,
    )


def start_worker(number: int, rank: int = 0) -> None:
    """Seed a worker process, and let it ignore signals.

    SLURM and terminals send signals to all processes; the death of a worker would end training before it could save.

    Args:
        number: Number of the worker within its loader.
        rank: Rank of the process that it works for.
    """
    seed_worker(number, rank)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def seed_worker(number: int, rank: int) -> None:
    """Give torch, random and numpy streams of their own, exactly as Lightning's ``seed_everything(workers=True)`` does.

    Args:
        number: Number of the worker; torch has seeded it by the loader's base seed plus this number.
        rank: Rank of the process that it works for.
    """
    base = torch.initial_seed() - number
    mask = 2**64 - 1
    mixed = base << 32 | number << 16 | rank
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):  # MurmurHash3's finaliser
        mixed = (mixed ^ mixed >> 33) * factor & mask
    mixed ^= mixed >> 33
    seeds = []
    for _ in range(3):  # Knuth's linear congruential generator
        mixed = (mixed * 6364136223846793005 + 1) & mask
        seeds.append(mixed)
    torch.manual_seed(seeds[0])
    random.seed(seeds[1] << 32 | seeds[2])
    np.random.seed(np.random.SeedSequence([base, number, rank]).generate_state(4))  # noqa: NPY002 - the global stream


def end_workers() -> None:
    """Kill the data workers at exit: they ignore the SIGTERM that Python sends to its children before it waits."""
    children = multiprocessing.active_children()
    if children and threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
        # torch's handler would report the death of a worker as an error
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in children:
        child.kill()


def end_workers_at_exit() -> None:
    """Register :func:`end_workers` to run before Python waits for its children, since this wait would never end."""
    util.Finalize(None, end_workers, exitpriority=100)


class UnpaddedDistributedSampler(DistributedSampler[int]):
    """Sampler that gives every index to exactly one rank, in order, without repetition.

    ``DistributedSampler`` repeats samples until all ranks hold equally many, which counts some images twice in a
    metric. Here some ranks may hold one sample, and so one batch, more than the others: code that runs once per
    *batch* must not wait for the other ranks. Lightning keeps any ``DistributedSampler`` that it finds in a loader.

    Args:
        dataset: The data set to sample from.
        num_replicas: Number of ranks; by default that of the process group.
        rank: Rank of this process; by default that in the process group.

    Raises:
        DataError: There are fewer samples than ranks.
    """

    def __init__(self, dataset: Dataset[Sample], num_replicas: int | None = None, rank: int | None = None) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        assert isinstance(dataset, Sized)
        self.total_size = len(dataset)
        if self.total_size < self.num_replicas:
            raise DataError(
                f"{self.total_size} samples cannot be spread over {self.num_replicas} processes, as each needs at "
                f"least one: evaluate on fewer devices (trainer.devices)."
            )
        self.num_samples = len(range(self.rank, self.total_size, self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.total_size, self.num_replicas))

    def __len__(self) -> int:
        return self.num_samples
