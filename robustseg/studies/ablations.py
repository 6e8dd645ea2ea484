"""Ablations of SegPGD's schedule and of dynamic scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from robustseg.attacks import DS, PGD, Attack, SegPGD
from robustseg.attacks.losses.pixelwise import Schedule
from robustseg.attacks.threat import Norm
from robustseg.evaluation.figures import keys_in
from robustseg.evaluation.records import record_name
from robustseg.evaluation.report import Curve
from robustseg.evaluation.report.drawing import Plot
from robustseg.evaluation.report.plots import curve_plot
from robustseg.studies.errors import StudyError
from robustseg.studies.study import Answering, percent
from robustseg.studies.sweep import Point, Sweep, check_steps, refuse_repeats

_BASELINE = "baseline"
_NAMED = tuple(name for name in get_args(Schedule) if name != "constant")


class ScheduleAblation(Sweep):
    """Scores of SegPGD with several schedules of the weight λ, over T (Gu et al., ECCV 2022, Sec. 4.2, Fig. 4).

    Args:
        schedules: ``linear`` (t−1)/2T, ``log`` ½·log2(1+(t−1)/T), ``exp`` ½·(2^((t−1)/T)−1), ``only-correct`` (λ = 0),
            a constant λ in [0, 1] such as 0.1 (the paper's weight-mis-λ), or ``baseline``: equal weights for all
            pixels, which is PGD and shares its records.
        steps: The numbers of steps T, each once.
        eps: Radius ε in units of [0, 1] images.
        step_size: Step size α.
        norm: ``"linf"``, ``"l2"`` or ``"rms"``.
        name: Name of the study's files.

    Raises:
        StudyError: A schedule is unknown or repeated, a λ is outside of [0, 1], or ``steps`` are below 1, repeated or
            empty.
        ValueError: :class:`~robustseg.attacks.SegPGD` refuses a value.
    """

    x_key = "steps"
    x_label = "steps T"
    line_key = "schedule"

    def __init__(
        self,
        schedules: list[str | float],
        steps: list[int],
        eps: float | str = "8/255",
        step_size: float | str = 0.01,
        norm: Norm = "linf",
        name: str | None = None,
    ):
        super().__init__(name)
        self.schedules = [_weighting(schedule) for schedule in schedules]
        refuse_repeats("schedules", self.schedules)
        self.steps = check_steps(steps)
        self.eps, self.step_size, self.norm = eps, step_size, norm
        self.attacks()

    def points(self) -> list[Point]:  # noqa: D102
        return [self._point(schedule, count) for schedule in self.schedules for count in self.steps]

    def _point(self, schedule: str | float, steps: int) -> Point:
        common: dict[str, Any] = {"eps": self.eps, "step_size": self.step_size, "steps": steps, "norm": self.norm}
        attack: Attack
        if schedule == _BASELINE:
            record, attack = f"pgd{steps}", PGD(**common)
        elif isinstance(schedule, float):
            record, attack = f"segpgd{steps} {schedule:g}", SegPGD(schedule="constant", constant=schedule, **common)
        else:
            record = f"segpgd{steps}" if schedule == "linear" else f"segpgd{steps} {schedule}"
            attack = SegPGD(schedule=schedule, **common)  # type: ignore[arg-type]
        line = f"λ = {schedule:g}" if isinstance(schedule, float) else schedule
        return Point(line, steps, steps, record, attack)

    def heading(self) -> str:  # noqa: D102
        return "Schedules of SegPGD against the number of steps"

    def explanation(self) -> str:  # noqa: D102
        return (
            "λ weights the loss of the pixels that are wrong already, 1 − λ that of the correct ones. baseline weighs "
            "all alike, which is PGD; only-correct has λ = 0; linear, log and exp let λ grow from 0 towards ½."
        )


def _weighting(schedule: str | float) -> str | float:
    """Return a named schedule, or a constant λ as a float.

    Raises:
        StudyError: The schedule is unknown, or λ is outside of [0, 1].
    """
    if schedule in (*_NAMED, _BASELINE):
        return schedule
    known = ", ".join((*_NAMED, _BASELINE))
    try:
        weight = float(schedule)
    except ValueError:
        raise StudyError(f"schedules names {schedule!r}: use {known}, or a constant such as 0.1.") from None
    if not 0 <= weight <= 1:
        raise StudyError(f"schedules = {schedule}: a constant weight lies in [0, 1]; 0.1, 0.2 and 0.3 in the paper.")
    return weight


class DynamicScaleAblation(Sweep):
    """Scores of dynamic scale over the range of sizes λ and the number of steps (Gu et al., 2021, Figs. 7 and 8).

    λ = 0 is the fixed scale. The paper reports the mIoU of other models: give them with ``--models``.

    Args:
        scale_ranges: The values of λ in [0, 1), each once.
        steps: The numbers of steps T, each once.
        eps: Radius ε in units of [0, 1] images; 0.03 in the paper.
        step_size: Step size α; 0.01 in the paper.
        norm: ``"linf"``, ``"l2"`` or ``"rms"``.
        name: Name of the study's files.

    Raises:
        StudyError: A λ is outside of [0, 1), ``steps`` are below 1, or values are repeated or empty.
        ValueError: :class:`~robustseg.attacks.DS` refuses a value.
    """

    x_key = "scale_range"
    x_label = "λ, range of sizes"
    line_key = "steps"

    def __init__(
        self,
        scale_ranges: list[float],
        steps: list[int],
        eps: float | str = 0.03,
        step_size: float | str = 0.01,
        norm: Norm = "linf",
        name: str | None = None,
    ):
        super().__init__(name)
        refuse_repeats("scale_ranges", scale_ranges)
        for scale_range in scale_ranges:
            if not 0 <= scale_range < 1:
                raise StudyError(f"scale_ranges = {list(scale_ranges)}: {scale_range} is outside of [0, 1).")
        self.scale_ranges = sorted(scale_ranges)
        self.steps = check_steps(steps)
        self.eps, self.step_size, self.norm = eps, step_size, norm
        self.attacks()

    def points(self) -> list[Point]:  # noqa: D102
        return [self._point(count, scale_range) for count in self.steps for scale_range in self.scale_ranges]

    def _point(self, steps: int, scale_range: float) -> Point:
        attack = DS(eps=self.eps, step_size=self.step_size, steps=steps, scale_range=scale_range, norm=self.norm)
        return Point(f"T = {steps}", scale_range, scale_range, f"ds{steps} {scale_range:g}", attack)

    def heading(self) -> str:  # noqa: D102
        return "Dynamic scale: range of sizes and number of steps"

    def explanation(self) -> str:  # noqa: D102
        return (
            "At each step images and targets are resized by a factor from [1 − λ, 1 + λ]; λ = 0 is the fixed scale. On "
            "the attacked model a wide range costs strength; on others a lower figure is better transfer."
        )

    def plots(  # noqa: D102
        self, rows: Sequence[dict[str, Any]], model: Answering, place: int, several: bool
    ) -> list[Plot]:
        drawn = super().plots(rows, model, place, several)
        if len(self.steps) < 2:
            return drawn
        # The same figures with λ and T exchanged show if a wide range of sizes needs more steps.
        mine = {row["record"]: row for row in rows if row["model"] == model.name}
        where = f", scored on {model.name}" if several else ""
        for key in keys_in("study plots"):
            lines = {
                f"λ = {scale_range:g}": [
                    percent(mine[record_name(self._point(steps, scale_range).record, model.key)], key)
                    for steps in self.steps
                ]
                for scale_range in self.scale_ranges
            }
            curve = Curve(f"{key} against steps{where}", "steps T", f"{key}, %", self.steps, lines)
            drawn.append(curve_plot(f"{self.name}-{key}-steps-{place}", curve))
        return drawn
