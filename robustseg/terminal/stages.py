"""Stages of a command, which a display shows: their texts and the time that they still take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Stage(ABC):
    """A part of a command that takes its time. All times are seconds of one clock.

    A display reads a stage in a thread of its own, so the stage holds plain numbers and texts, no tensors: reading one
    could wait for the device.
    """

    started = 0.0
    """Time of the beginning."""

    def begin(self, now: float) -> None:
        """Note the time of the beginning."""
        self.started = now

    @abstractmethod
    def parts(self) -> list[str]:
        """Return what is done now, from the whole to the detail; names of users may be in it as they are."""

    @abstractmethod
    def left(self, now: float, inner: Left = None) -> float | None:
        """Estimate the seconds until the end; None while nothing is known.

        Args:
            now: The time.
            inner: Seconds since the beginning of a stage within this one, and until its end.
        """

    def share(self, now: float, left: float) -> float:
        """Return the share that is done, in [0, 1].

        Args:
            now: The time.
            left: Seconds until the end.
        """
        passed = now - self.started
        return passed / (passed + left) if passed + left > 0 else 0.0


Left = tuple[float, "float | None"] | None


class Count(Stage):
    """A loop over items that take about the same time.

    Args:
        what: Text in front of the numbers, such as ``counting classes: image``.
        total: Number of items; None if unknown.
    """

    def __init__(self, what: str, total: int | None):
        self.what = what
        self.total = total
        self.done = 0
        self._last = 0.0

    def begin(self, now: float) -> None:  # noqa: D102
        super().begin(now)
        self._last = now

    def advance(self, now: float) -> None:
        """Note that an item is done."""
        self.done += 1
        self._last = now

    def parts(self) -> list[str]:  # noqa: D102
        if self.total is None:
            return [f"{self.what} {self.done + 1}"]
        return [f"{self.what} {min(self.done + 1, self.total)}/{self.total}"]

    def left(self, now: float, inner: Left = None) -> float | None:  # noqa: D102
        if self.total is None:
            return None
        following = max(0, self.total - self.done - 1)
        if self.done >= self.total:
            return 0.0
        if self.done:
            each = (self._last - self.started) / self.done
            within = None if inner is None else inner[1]
            return (max(0.0, self._last + each - now) if within is None else within) + each * following
        if inner is None or inner[1] is None:
            return None
        return inner[1] + (inner[0] + inner[1]) * following


def whole_left(stages: Sequence[Stage], now: float) -> float | None:
    """Estimate the seconds until the end of the first of several stages, each within the one before."""
    inner: Left = None
    for stage in reversed(stages):
        inner = (now - stage.started, stage.left(now, inner))
    return None if inner is None else inner[1]
