"""Attacks that are cut short after a few steps, with the seconds of their steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from robustseg.attacks import Attack, AttackStep, IterativeAttack, NoiseSource, WorstOf
from robustseg.attacks.base import OnStep, reads_logits, reads_no_logits
from robustseg.attacks.checks import UNIT
from robustseg.attacks.victim import Victim
from robustseg.evaluation.attack_stage import FORWARD, gradient_steps

MOST = 8
"""Steps of a measurement at most: before the first images leave (LEAVE_EVERY)."""


class Reading(NamedTuple):
    """A measured call of an attack on one batch, in seconds and counts of the whole attack."""

    seconds: float
    """Seconds of all of its steps, at most, without its observers."""
    watched: float
    """Seconds of the observers of all steps."""
    passed: float
    """Seconds that the measurement itself took, with its observers."""
    gradients: float
    """Input gradients of an image, at most."""
    forwards: float
    """Forwards of an image, at most."""


NOTHING = Reading(0.0, 0.0, 0.0, 0.0, 0.0)


class _Enough(Exception):
    """End of a measurement."""


@dataclass
class _Watch:
    """The clock of one call: seconds and counts after each step."""

    now: Callable[[], float]
    victim: Victim
    images: int
    began: float = 0.0
    watched: float = 0.0
    steps: list[float] = field(default_factory=list)
    last: AttackStep | None = None

    def __post_init__(self) -> None:
        self.counts = [self._counted()]
        self.began = self._since = self.now()

    def _counted(self) -> tuple[float, float]:
        counters = (self.victim.backwards, self.victim.forwards)
        backwards, forwards = (float(each.sum()) / self.images for each in counters)
        return backwards, forwards

    def counted(self, first: int = 0, last: int | None = None) -> tuple[float, float]:
        """Return the gradients and forwards of an image between two steps, or from one until now."""
        until = self._counted() if last is None else self.counts[last]
        return until[0] - self.counts[first][0], until[1] - self.counts[first][1]

    def step(self, step: AttackStep, on_step: OnStep | None) -> None:
        """Note a step, and show it to an observer."""
        moment = self.now()
        self.steps.append(moment - self._since)
        self.counts.append(self._counted())
        self.last = step
        if on_step is not None:
            on_step(step)
        self._since = self.now()
        self.watched += self._since - moment


class Leaf:
    """An attack without others inside it, whose calls end after a few steps.

    Args:
        attack: The attack.
        now: Time in seconds, after the device has finished.
        feeds: Show observers the steps that are left out as well, each with the last iterate: some look at a few steps
            only.
    """

    def __init__(self, attack: Attack, now: Callable[[], float], feeds: bool):
        self.attack = attack
        self.steps = gradient_steps(attack.describe())
        self.enough = 1.0
        """Seconds after which a call ends, once two steps are done."""
        self.readings: list[Reading] = []
        self._now, self._feeds = now, feeds

    @property
    def endings(self) -> int:
        """Forwards after the last steps of all runs, for the choice of the best iterate; 0 if nothing is chosen.

        Where it is chosen, images may leave before the last step.
        """
        attack = self.attack
        if not isinstance(attack, IterativeAttack):
            return 1
        stages = len(attack.stages) if attack.keep == "best" else 1
        return attack.restarts * stages if attack.keep == "best" or attack.restarts > 1 else 0

    def perturb(
        self, victim: Victim, images: Tensor, targets: Tensor, noise: NoiseSource, on_step: OnStep | None
    ) -> Tensor:
        """Run the first steps of the attack, and return the last iterate; arguments as for the attack's own."""
        watch = _Watch(self._now, victim, len(images))

        def stop(step: AttackStep) -> None:
            watch.step(step, on_step)
            done = len(watch.steps)
            if 2 <= done < self.steps and (done >= MOST or self._now() - watch.began > self.enough):
                raise _Enough

        observer = stop if on_step is not None and reads_logits(on_step) else reads_no_logits(stop)
        try:
            images_adv = self.attack.perturb(victim, images, targets, noise, observer)
            self.readings.append(self._whole(watch))
        except _Enough:
            assert watch.last is not None
            self._feed(watch, watch.last, on_step)
            images_adv = self._allowed(images, watch.last.images_adv)
            self.readings.append(self._continued(watch))
        return images_adv

    def _whole(self, watch: _Watch) -> Reading:
        passed = self._now() - watch.began
        return Reading(passed - watch.watched, watch.watched, passed, *watch.counted())

    def _continued(self, watch: _Watch) -> Reading:
        """Continue the measured steps to the end of the attack."""
        step = sum(watch.steps[1:]) / len(watch.steps[1:])
        of_steps = watch.steps[0] + (self.steps - 1 + FORWARD * self.endings) * step
        watched = watch.watched if self._feeds else watch.watched * self.steps / len(watch.steps)
        first, later = watch.counted(0, 1), watch.counted(-2, -1)
        gradients, forwards = (a + (self.steps - 1) * b for a, b in zip(first, later, strict=True))
        return Reading(of_steps, watched, self._now() - watch.began, gradients, forwards + self.endings)

    def _feed(self, watch: _Watch, last: AttackStep, on_step: OnStep | None) -> None:
        if on_step is None or not self._feeds:
            return
        began = self._now()
        for number in range(last.step + 1, last.steps + 1):
            on_step(last._replace(step=number))
        watch.watched += self._now() - began

    def _allowed(self, images: Tensor, images_adv: Tensor) -> Tensor:
        """Return an iterate within the attack's final threat model."""
        if images_adv.shape != images.shape:
            return images
        if self.attack.threat is None:
            return images_adv.clamp(*UNIT)
        allowed = self.attack.threat.around(images)
        return allowed.finish(allowed.project(images_adv.to(images.dtype)))


class CutAttack:
    """An attack whose parts are cut short; ``attack`` is the copy to run.

    Args:
        attack: The attack; it is not changed.
        now: Time in seconds, after the device has finished.
        feeds: See :class:`Leaf`.
    """

    def __init__(self, attack: Attack, now: Callable[[], float], feeds: bool = False):
        self.leaves: list[Leaf] = []
        self._now, self._feeds = now, feeds
        self.attack = self._cut(attack)
        ensembles = [each for each in _inside(attack) if isinstance(each, WorstOf) and len(each.attacks) > 1]
        self.early = bool(ensembles) or any(leaf.steps > 1 and leaf.endings for leaf in self.leaves)
        """True if images may leave before the last step, so that a reading is a bound."""
        self._own = float(sum(1 + len(each.attacks) for each in _inside(attack) if isinstance(each, WorstOf)))

    def _cut(self, attack: Attack) -> Attack:
        clone, inner = copy.copy(attack), False
        for name, value in vars(attack).items():
            if isinstance(value, Attack):
                vars(clone)[name], inner = self._cut(value), True
            elif isinstance(value, (tuple, list)) and value and all(isinstance(each, Attack) for each in value):
                vars(clone)[name], inner = type(value)(map(self._cut, value)), True
        if not inner:
            leaf = Leaf(attack, self._now, self._feeds)
            self.leaves.append(leaf)
            vars(clone)["perturb"] = leaf.perturb
        return clone

    def limit(self, seconds: float) -> None:
        """Let all parts together end after so many seconds, but for two steps each."""
        for leaf in self.leaves:
            leaf.enough = seconds / len(self.leaves)

    def take(self) -> Reading:
        """Return the sum of the readings since the last call."""
        every = [reading for leaf in self.leaves for reading in leaf.readings]
        for leaf in self.leaves:
            leaf.readings = []
        whole = Reading(*(sum(values) for values in zip(*every, strict=True))) if every else NOTHING
        return whole._replace(forwards=whole.forwards + self._own)


def _inside(attack: Attack) -> Iterator[Attack]:
    yield attack
    for value in vars(attack).values():
        for each in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(each, Attack):
                yield from _inside(each)
