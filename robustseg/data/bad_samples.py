"""What to do about a training sample that cannot be read in the middle of a run."""

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
    """Return ``policy``.

    Raises:
        ValueError: It is none.
    """
    if policy not in ("stop", "replace"):
        raise ValueError(f"on_bad_sample = {policy!r}: set data.on_bad_sample to stop or replace.")
    return policy


class BadSamples:
    """Stops at a training sample that cannot be read, or replaces it by another one.

    Which one is a function of the fetch alone, its sample and its seed, so that it is the same in any worker process,
    on any rank and in a run that was resumed. Each process warns once of each bad sample, and stops at more than 10 of
    them or 1 % of the split (but not at the first): by then it is not the files that are bad.

    Args:
        policy: ``"stop"`` or ``"replace"``.
        length: Number of samples in the split.
        sample_id: Name of a sample by its index.

    Raises:
        ValueError: Another policy.
    """

    def __init__(self, policy: BadSamplePolicy, length: int, sample_id: Callable[[int], str]):
        self.policy: BadSamplePolicy = check_policy(policy)
        self.length = length
        self.sample_id = sample_id
        self.most = max(1, min(_MOST, length // 100))
        """Bad samples that a process puts up with."""
        self._seen: set[int] = set()

    def read(self, fetch: Fetch, read: Callable[[int], Content]) -> tuple[int, Content]:
        """Index and content of the sample, or of the one in its place.

        Args:
            fetch: What was asked for.
            read: Reads a sample by its index.

        Raises:
            DataError: It cannot be read and training is to stop, or too many cannot.
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
