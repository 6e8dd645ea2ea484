"""Bills: what a command computes, the seconds of each item on this device, and how processes share them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """An item of a bill. Seconds are those of one process on the device that was measured."""

    name: str
    seconds: float
    """Seconds of all images, at most."""
    count: int = 0
    """Images, or updates of a training."""
    gradients: float = 0.0
    """Input gradients of one image or one update, at most."""
    forwards: float = 0.0
    """Forwards of one image or one update, at most."""
    likely: float | None = None
    """Share of ``seconds`` that is likely, where some images end earlier; None where nothing is known."""
    early: bool = False
    """True if images may end earlier, so that ``seconds`` is a bound."""
    shared: bool = True
    """True if shards or ranks share it; otherwise one process does it."""
    error: str = ""
    """The reason why it cannot be computed; empty if it can."""

    @property
    def expected(self) -> float:
        """Seconds that are likely: the bound where nothing better is known."""
        return self.seconds * (1.0 if self.likely is None else self.likely)


@dataclass(frozen=True)
class Line:
    """Seconds of a batch as a function of its pixels: ``fixed + slope · pixels``."""

    slope: float
    """Seconds of a pixel."""
    fixed: float = 0.0
    """Seconds of any batch."""

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Line:
        """Fit a line to (pixels, seconds) by least squares; seconds are proportional to pixels of a single size."""
        if not points:
            return cls(0.0)
        count = len(points)
        mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
        fixed = mean_y - slope * mean_x
        if slope <= 0 < spread:
            return cls(0.0, mean_y)
        return cls(slope, fixed) if spread and fixed > 0 else cls(mean_y / mean_x if mean_x else 0.0)

    def of(self, batches: float, pixels: float) -> float:
        """Return the seconds of so many batches with so many pixels in all."""
        return batches * self.fixed + pixels * self.slope


@dataclass(frozen=True)
class Bill:
    """The bill of a command on this device."""

    items: Sequence[Item]
    start: float
    """Seconds until the first item, in each process."""
    batches: int
    """Largest number of processes that can share the items."""
    device: str = "CPU"
    memory: int = 0
    """Peak of the memory in bytes."""
    kept: int = 0
    """Scores of (image, attack) that were measured before and are kept."""
    took: float = 0.0
    """Seconds that the measurements for this bill took."""

    def seconds(self, processes: int = 1, *, at_most: bool = False) -> float:
        """Return the seconds until the last of several processes has ended.

        Batches are not divided, so the longest part has ``ceil(batches / processes)`` of them.

        Args:
            processes: Number of shards or ranks, one device each.
            at_most: Return the bound instead of what is likely.
        """
        of = [item.seconds if at_most else item.expected for item in self.items]
        shared = sum(seconds for seconds, item in zip(of, self.items, strict=True) if item.shared)
        share = math.ceil(self.batches / processes) / self.batches if self.batches else 1.0
        return self.start + share * shared + sum(of) - shared

    def processes_within(self, seconds: float) -> int | None:
        """Return the smallest number of processes that surely end within a time; None if no number does."""
        if self.seconds(max(1, self.batches), at_most=True) > seconds:
            return None
        low, high = 1, max(1, self.batches)
        while low < high:  # seconds(n) never grows with n
            middle = (low + high) // 2
            if self.seconds(middle, at_most=True) <= seconds:
                high = middle
            else:
                low = middle + 1
        return low
