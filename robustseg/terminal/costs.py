"""The costs of the parts of a stage: measured times, and what they say about the time that is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Part:
    """A part of a stage, such as one attack on all images."""

    steps: float
    """Gradient steps for one image, expected."""
    images: int
    """Images that are to be measured in this run."""
    kept: int = 0
    """Images that were measured before."""
    done: int = 0
    """Images that were measured in this run."""
    starts_device: bool = False
    """True if the first batch is no measure, since it holds the start of a device or of data workers."""
    expected: float | None = None
    """Seconds for one image by another estimate, until a batch is measured."""
    batches: list[tuple[float, int]] = field(default_factory=list)
    """Seconds and images of each batch."""

    @property
    def counted(self) -> list[tuple[float, int]]:
        """The batches to measure by: without the first where there are others."""
        return self.batches[1:] or ([] if self.starts_device else self.batches)

    def each(self) -> float | None:
        """Return the seconds for one image; None while they are not known."""
        images = sum(images for _, images in self.counted)
        return sum(seconds for seconds, _ in self.counted) / images if images else self.expected


class Costs:
    """Times of parts, each measured batch by batch, and the time that all still take.

    A part that was measured takes for each image what it took so far. A part that has not begun takes, for each
    gradient step of an image, what the steps of the others took.

    Args:
        parts: The parts by name, in their order.
    """

    def __init__(self, parts: Mapping[str, Part]):
        self.parts = dict(parts)
        self._now: str | None = None
        self._began = 0.0
        self._images = 0
        self._taken = 0.0

    def begin(self, name: str, images: int, now: float) -> None:
        """Begin a part on a batch; the part before ends."""
        self.end(now)
        self._now, self._images, self._taken, self._began = name, images, 0.0, now

    def step(self, steps: float = 1.0) -> None:
        """Note that the batch's part has taken a gradient step."""
        self._taken += steps

    def end(self, now: float) -> None:
        """End the part that runs, if there is one."""
        name, self._now = self._now, None
        if name is None:
            return
        part = self.parts[name]
        part.batches.append((now - self._began, self._images))
        part.done += self._images

    def forget(self) -> None:
        """End the part that runs without a measurement."""
        self._now = None

    def drop(self, name: str) -> None:
        """Note that a part is not measured any more."""
        self.parts[name].images = self.parts[name].done
        if name == self._now:
            self.forget()

    def left(self, now: float) -> float | None:
        """Estimate the seconds until all parts are measured; None while nothing is known."""
        step = self._seconds_per_step(now)
        total = 0.0
        for name, part in self.parts.items():
            images = part.images - part.done
            each = self._each(part, step)
            if name == self._now and images > 0:
                running = self._running(part, each, now)
                if running is None:
                    return None
                if each is None and self._images:
                    each = (now - self._began + running) / self._images
                total, images = total + running, images - self._images
            if images > 0:
                if each is None:
                    return None
                total += each * images
        return total

    def kept(self, now: float) -> float:
        """Estimate the seconds of what was measured in earlier runs."""
        step = self._seconds_per_step(now)
        return sum(part.kept * (self._each(part, step) or 0.0) for part in self.parts.values())

    def _each(self, part: Part, step: float | None) -> float | None:
        """Return the seconds of a part for one image, as measured or else by the seconds of a step."""
        if (measured := part.each()) is not None:
            return measured
        if step is not None or not part.steps:
            return part.steps * (step or 0.0)
        return sum(seconds for seconds, _ in part.batches) / part.done if part.done else None

    def _running(self, part: Part, each: float | None, now: float) -> float | None:
        """Estimate the seconds that the part of this batch still takes."""
        passed = now - self._began
        share = min(1.0, self._taken / part.steps) if part.steps else 0.0
        if part.each() is None and share:  # what this batch took says more than what other parts took
            return passed / share - passed
        if each is None:
            return None
        expected = each * self._images
        by_clock, by_steps = max(0.0, expected - passed), expected * (1 - share)
        # steps tell a slow batch, and the clock the end of one with few steps; some parts have no steps
        return by_steps if share and passed > 1.2 * expected else min(by_clock, by_steps)

    def _seconds_per_step(self, now: float) -> float | None:
        """Return the seconds of one gradient step of one image, over all parts measured so far."""
        seconds = steps = 0.0
        for name, part in self.parts.items():
            if not part.steps:
                continue
            seconds += sum(each for each, _ in part.counted)
            steps += part.steps * sum(images for _, images in part.counted)
            if name == self._now and self._taken:
                seconds += now - self._began
                steps += self._taken * self._images
        return seconds / steps if steps else None
