"""The speed of a device: seconds of each attack, measured by an evaluator on a few batches."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustseg.attacks import Attack, AttackStep, NoGradientError, Search, attack_mode
from robustseg.attacks.base import reads_no_logits
from robustseg.attacks.gradients import input_gradient
from robustseg.attacks.guard import Model
from robustseg.evaluation import MemorySink
from robustseg.evaluation.attack_stage import AttackStage
from robustseg.evaluation.attacking import CLEAN, Attacked
from robustseg.evaluation.evaluator import Evaluator
from robustseg.evaluation.store import ImageRecord
from robustseg.evaluation.targets import TargetKind
from robustseg.evaluation.trace import Traced
from robustseg.evaluation.views import View
from robustseg.numerics.precision import full_precision
from robustseg.planning.bill import Line
from robustseg.planning.cut import NOTHING, CutAttack, Reading
from robustseg.terminal import shown
from robustseg.types import IGNORE_INDEX, Batch

JUDGING = 2.0
"""Forwards that judge the result of a search in low precision."""
Points = list[tuple[float, float]]
"""Pixels of a batch and seconds for it."""


@dataclass
class Rate:
    """The speed of one attack."""

    attack: Line
    """Seconds of a batch for the attack itself, at most."""
    scoring: Line
    """Seconds of a batch for all that follows: scores, those in 8 bit, and views."""
    gradients: float
    """Input gradients of an image, at most."""
    forwards: float
    """Forwards of an image within the attack, at most."""
    early: bool
    """True if images may leave before the last step."""


@dataclass
class Rates:
    """The speed of a device with one model."""

    attacks: dict[str, Rate] = field(default_factory=dict)
    """By name, "clean" included."""
    refused: dict[str, str] = field(default_factory=dict)
    """Reasons why attacks cannot be run on this model."""
    gradient: Line = field(default_factory=lambda: Line(0.0))
    """Seconds of a batch for a forward and its input gradient."""


@dataclass(frozen=True)
class Scored:
    """Further arguments of an evaluator, of the same names."""

    num_classes: int
    ignore_index: int | None = IGNORE_INDEX
    seed: int = 0
    models: Mapping[str, nn.Module] = field(default_factory=dict)
    """Models to score by name; empty for the attacked one."""
    views: Mapping[str, View] = field(default_factory=dict)
    for_itself: Collection[str] = ()
    targets: TargetKind = "labels"
    rounds: bool = True
    """True if images are scored in 8 bit as well."""
    search: Search | None = None


class _NoSink(MemorySink):
    """A sink that keeps nothing."""

    def __init__(self, rounds: bool):
        super().__init__()
        self.rounds = rounds
        self.refused: dict[str, str] = {}

    def open(self, attacks: Mapping[str, Attack], views: Mapping[str, View], num_classes: int) -> None:
        pass

    def see(self, model: Model, name: str, batch: Batch, attacked: Attacked, pixel_accs: Tensor) -> None:
        pass

    def put(self, records: Sequence[ImageRecord]) -> None:
        pass

    def refuse(self, attack: str, error: NoGradientError) -> None:
        self.refused[attack] = str(error)


class _Laps(AttackStage):
    """A display of the plan that notes the seconds of each attack on a batch, with its scores."""

    def __init__(self, attacks: Mapping[str, Attack], now: Callable[[], float]):
        super().__init__(attacks)
        self.laps: dict[str, float] = {}
        self._lap, self._now_finished, self._since = "", now, 0.0

    def batch(self, images: int) -> None:
        self.laps = {}

    def attack(self, name: str, images: int) -> None:
        self.batch_done(images)
        self._lap = name

    def batch_done(self, images: int) -> None:
        now = self._now_finished()
        if self._lap:
            self.laps[self._lap] = now - self._since
        self._lap, self._since = "", now

    def refused(self, name: str) -> None:
        pass

    @reads_no_logits
    def step(self, step: AttackStep) -> None:
        pass

    def parts(self) -> list[str]:
        return ["measuring for the plan", *([self._lap] if self._lap else [])]

    def left(self, now: float, inner: tuple[float, float | None] | None = None) -> float | None:
        return None


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return a clock, the display's, that waits for a device."""
    clock = shown().clock

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock()

    return now


def measure_rates(
    model: nn.Module,
    attacks: Mapping[str, Attack],
    batches: Sequence[Batch],
    scored: Scored,
    device: torch.device,
    seconds: float = 15.0,
) -> Rates:
    """Run the first steps of each attack on each batch, with all that an evaluation does with the images.

    Args:
        model: The attacked model, on the device.
        attacks: Attacks by name.
        batches: Batches of the evaluation's size, at least one.
        scored: What the evaluation computes.
        device: The device.
        seconds: Seconds to spend, about; each attack takes two steps at least.

    Raises:
        AttackError: An attack cannot be run on these images.
    """
    now = clock_of(device)
    watches = any(view.watches for view in scored.views.values())
    cuts = {name: CutAttack(attack, now, watches or isinstance(attack, Traced)) for name, attack in attacks.items()}
    for cut in cuts.values():
        cut.limit(seconds / max(1, len(cuts) * len(batches)))
    rates = Rates(gradient=_gradients(model, batches, device, now))
    sink, laps = _NoSink(scored.rounds), _Laps(attacks, now)
    evaluator = Evaluator(
        {name: cut.attack for name, cut in cuts.items()},
        scored.num_classes,
        sink,
        scored.ignore_index,
        scored.seed,
        scored_on=list(scored.models) or [""],
        views=scored.views,
        for_itself=scored.for_itself,
        targets=scored.targets,
        search=scored.search,
    )
    answering = {name: each.to(device) for name, each in scored.models.items()} or None
    readings: dict[str, list[tuple[float, float, Reading]]] = {name: [] for name in (CLEAN, *attacks)}
    with shown().stage(laps):
        for batch in batches:
            images, targets = batch.images.to(device), batch.targets.to(device)
            evaluator.update(model, batch.ids, images, targets, laps, answering)
            for name, lap in laps.laps.items():
                reading = cuts[name].take() if name in cuts else NOTHING
                readings[name].append((float(targets.numel()), lap, reading))
    rates.refused = sink.refused
    for name, found in readings.items():
        if found and name not in rates.refused:
            judged = JUDGING if name in cuts and scored.search is not None else 0.0
            rates.attacks[name] = _rate(found, name in cuts and cuts[name].early, judged)
    return rates


def _rate(found: Sequence[tuple[float, float, Reading]], early: bool, judged: float) -> Rate:
    count = len(found)
    return Rate(
        Line.through([(pixels, of.seconds) for pixels, _, of in found]),
        Line.through([(pixels, lap - of.passed + of.watched) for pixels, lap, of in found]),
        sum(of.gradients for *_, of in found) / count,
        sum(of.forwards for *_, of in found) / count + judged,
        early,
    )


def _gradients(model: nn.Module, batches: Sequence[Batch], device: torch.device, now: Callable[[], float]) -> Line:
    """Measure a forward and its input gradient on each batch, the second time; the first one warms the device up."""
    points: Points = []
    for batch in batches:
        seconds = 0.0
        for _ in range(2):
            began = now()
            with full_precision(), attack_mode(model) as attacked:
                images = batch.images.to(device).requires_grad_()
                with suppress(NoGradientError):  # attacks that need it are refused; a forward warms up all the same
                    input_gradient(attacked(images).float().square().mean(), images)
            seconds = now() - began
        points.append((float(batch.targets.numel()), seconds))
    return Line.through(points)


def peak_memory(device: torch.device) -> int:
    """Return the peak of the memory in bytes: of tensors on a GPU, otherwise of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_name(device: torch.device) -> str:
    """Return the name of a device for users."""
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"{device.type.upper()}, {threads} thread{'s' * (threads != 1)}"
