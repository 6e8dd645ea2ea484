"""The handling of training samples that cannot be read in the middle of a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, TypeVar

from robustseg.data.errors import DataError
from robustseg.data.order import Fetch, derived_seed

BadSamplePolicy = Literal["stop", "replace"]

_MOST = 10
_TRIES = 20
Content = TypeVar("Content")


def check_policy(policy: BadSamplePolicy) -> BadSamplePolicy:
    """Return ``policy`` if it is one.

    Raises:
        ValueError: It is neither ``"stop"`` nor ``"replace"``.
    """
    if policy not in ("stop", "replace"):
        raise ValueError(f"on_bad_sample = {policy!r}: set data.on_bad_sample to stop or replace.")
    return policy


class BadSamples:
    """The handling of training samples that cannot be read: training stops, or another sample replaces them.

    The replacement is a function of the fetch alone, its sample and its seed, so it is the same in any worker process,
    on any rank and in a resumed run. Each process warns once of each bad sample. It stops at more than 10 bad samples
    or more than 1 % of the split, but not at the first: so many point to a fault elsewhere than in single files.

    Args:
        policy: ``"stop"`` or ``"replace"``.
        length: Number of samples in the split.
        sample_id: Function from the index of a sample to its name.

    Raises:
        ValueError: The policy is another one.
    """

    def __init__(self, policy: BadSamplePolicy, length: int, sample_id: Callable[[int], str]):
        self.policy: BadSamplePolicy = check_policy(policy)
        self.length = length
        self.sample_id = sample_id
        self.most = max(1, min(_MOST, length // 100))
        """Most bad samples that a process tolerates."""
        self._seen: set[int] = set()

    def read(self, fetch: Fetch, read: Callable[[int], Content]) -> tuple[int, Content]:
        """Read a sample, or the one that replaces it; return its index and content.

        Args:
            fetch: The request.
            read: Function that reads a sample by its index.

        Raises:
            DataError: The sample cannot be read and the policy is ``"stop"``, or too many samples cannot be read.
        """
        try:
            return fetch.sample, read(fetch.sample)
        except (DataError, OSError) as error:
            first: DataError | OSError = error
        self._note(fetch.sample, first)
        for attempt in range(_TRIES):
            index = derived_seed(fetch.seed, "replacement", fetch.sample, attempt) % self.length
            try:
                content = read(index)
            except (DataError, OSError) as error:
                self._note(index, error)
                continue
            return index, content
        raise self._error(fetch.sample, first, f"no other of {_TRIES} could be read either: look at the files.")

    def _note(self, index: int, error: DataError | OSError) -> None:
        if self.policy == "stop":
            remedy = (
                "then go on with --ckpt_path last, or without this sample with --data.on_bad_sample replace as well."
            )
            raise self._error(index, error, remedy) from error
        if index in self._seen:
            return
        self._seen.add(index)
        if len(self._seen) > self.most:
            count = f"it is the number {len(self._seen)} of {self.length} that a process could not read"
            raise self._error(index, error, f"{count}: repair the files, then go on with --ckpt_path last.") from error
        warnings.warn(f"{self._error(index, error, 'another sample takes its place.')}", stacklevel=2)

    def _error(self, index: int, error: DataError | OSError, remedy: str) -> DataError:
        what = " ".join(str(error).split()).rstrip(".")
        return DataError(f"training sample {self.sample_id(index)}: {what}; {remedy}")
