"""The stage of a command that attacks batch by batch: attack, step, images and the time left of the whole."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from robustseg.attacks import Attack, AttackStep
from robustseg.attacks.base import reads_no_logits
from robustseg.evaluation.attacking import CLEAN
from robustseg.terminal import Stage, shown
from robustseg.terminal.costs import Costs, Part
from robustseg.terminal.stages import Left

LOADING = ""
"""Part of the time between batches."""

FORWARD = 1 / 3
"""A forward without a gradient, in gradient steps."""


def gradient_steps(settings: Mapping[str, Any]) -> int:
    """Return the gradient steps that an attack takes on an image at most, over all members and restarts.

    Args:
        settings: ``describe()`` of the attack; one that names no steps counts as one step.
    """
    if isinstance(members := settings.get("members"), (list, tuple)):
        return sum(gradient_steps(member) for member in members if isinstance(member, Mapping))
    if isinstance(inner := settings.get("inner"), Mapping):
        return gradient_steps(inner)
    numbers = [settings.get(key, 1) for key in ("steps", "restarts", "search_steps")]
    return math.prod(number for number in numbers if isinstance(number, int) and number > 0)


class AttackStage(Stage):
    """The attacks of an evaluation on this process's images, with what follows them.

    Args:
        attacks: Attacks by name.
        after: Parts that follow the attacks, by their names: gradient steps for one image, and images.
        clock: Time in seconds; by default that of the display.
    """

    def __init__(
        self,
        attacks: Mapping[str, Attack],
        after: Mapping[str, tuple[float, int]] | None = None,
        clock: Callable[[], float] | None = None,
    ):
        self._clock = clock
        self._places = {name: place for place, name in enumerate(attacks, 1)}
        parts = {CLEAN: Part(FORWARD, 0, starts_device=True)}
        self._steps = {name: gradient_steps(attack.describe()) for name, attack in attacks.items()}
        parts |= {name: Part(steps + FORWARD, 0) for name, steps in self._steps.items()}
        parts[LOADING] = Part(0.0, 0, starts_device=True)
        # names of attacks cannot begin like this
        parts |= {_after(name): Part(steps, images) for name, (steps, images) in (after or {}).items()}
        self.costs = Costs(parts)
        self.images = 0
        self.done = 0
        self._phase = "starting"
        self._taken = 0
        self._attack = self._step = ""

    def plan(self, lacking: Sequence[Collection[str]]) -> None:
        """Set what is to be measured; the rest was measured before.

        Args:
            lacking: For each image of this process, the names of the attacks, "clean" included, that it still lacks.
        """
        self.images = len(lacking)
        counts = Counter(name for names in lacking for name in names)
        for name in (CLEAN, *self._places):
            part = self.costs.parts[name]
            part.images, part.kept = counts[name], self.images - counts[name]
        missing = sum(1 for names in lacking if names)
        self.costs.parts[LOADING].images = missing
        self.done = self.images - missing
        if missing:
            self.costs.begin(LOADING, 0, self._now())

    def batch(self, images: int) -> None:
        """Begin a batch, which has been loaded."""
        self._phase = ""
        part, now = self.costs.parts[LOADING], self._now()
        self.costs.end(now)
        if part.batches:  # it began before the size of the batch was known
            part.batches[-1] = (part.batches[-1][0], images)
        part.done += images

    def attack(self, name: str, images: int) -> None:
        """Begin an attack on images of the batch; "clean" for none."""
        self._attack, self._step, self._taken = name, "", 0
        self.costs.begin(name, images, self._now())

    @reads_no_logits
    def step(self, step: AttackStep) -> None:
        """Note a step of the attack; its tensors are not read, so nothing waits for the device."""
        self._taken += 1
        self._step = f"step {self._taken}/{max(self._taken, self._steps[self._attack])}"
        self.costs.step()

    def refused(self, name: str) -> None:
        """Note that an attack cannot be run."""
        self.costs.drop(name)

    def batch_done(self, images: int) -> None:
        """End a batch."""
        now = self._now()
        self.costs.end(now)
        self.done = min(self.images, self.done + images)
        self._attack = self._step = ""
        self.costs.begin(LOADING, 0, now)

    def follow(self, name: str, images: int = 0) -> None:
        """Begin what follows the attacks.

        Args:
            name: Name of the part; one that was not announced takes no time.
            images: Images that it is for.
        """
        self._phase, self._step, now = name, "", self._now()
        self.costs.end(now)
        for each in (CLEAN, *self._places, LOADING):
            self.costs.drop(each)
        if _after(name) in self.costs.parts:
            self.costs.begin(_after(name), images, now)

    def follow_step(self, steps: float, text: str = "") -> None:
        """Note gradient steps, for each image, of what follows the attacks."""
        self._step = text
        self.costs.step(steps)

    def parts(self) -> list[str]:  # noqa: D102
        if self._phase:
            return [self._phase, *([self._step] if self._step else [])]
        name = self._attack
        place = self._places.get(name)
        attack = name if place is None else f"attack {place}/{len(self._places)} {name}"
        texts = [attack or "loading images", self._step, f"images {self.done}/{self.images}"]
        return [text for text in texts if text]

    def left(self, now: float, inner: Left = None) -> float | None:  # noqa: D102
        return self.costs.left(now)

    def share(self, now: float, left: float) -> float:  # noqa: D102
        kept = self.costs.kept(now)
        passed = kept + now - self.started
        return passed / (passed + left) if passed + left > 0 else 0.0

    def _now(self) -> float:
        return (self._clock or shown().clock)()


def _after(name: str) -> str:
    return f"\0{name}"
