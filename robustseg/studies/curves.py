"""Curves of scores over the number of steps and over ε."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from robustseg.attacks import Attack
from robustseg.evaluation.attacking import CLEAN
from robustseg.studies.errors import StudyError
from robustseg.studies.study import check_attacks
from robustseg.studies.sweep import Point, Sweep, check_steps, numbered, refuse_repeats
from robustseg.studies.vary import with_eps, with_steps
from robustseg.types import parse_fraction


class StepCurve(Sweep):
    """Scores over the number of steps T, for several attacks (Gu et al., ECCV 2022, Fig. 2).

    Each T is an attack of its own, since schedules such as SegPGD's depend on T. Its records are named by the attack's
    name and T: ``pgd`` with 20 steps shares the records ``pgd20`` of an evaluation with the same attack.

    Args:
        attacks: The attacks by name, each with steps along a gradient; their own ``steps`` are ignored.
        steps: The numbers of steps T, each once.
        name: Name of the study's files.

    Raises:
        StudyError: There is no attack, one cannot be varied, or ``steps`` are below 1, repeated or empty.
    """

    x_key = "steps"
    x_label = "steps T"

    def __init__(self, attacks: dict[str, Attack], steps: list[int], name: str | None = None):
        super().__init__(name)
        self.varied = check_attacks(attacks)
        self.steps = check_steps(steps)
        self.attacks()

    def points(self) -> list[Point]:  # noqa: D102
        return [
            Point(name, count, count, numbered(name, count), with_steps(name, attack, count))
            for name, attack in self.varied.items()
            for count in self.steps
        ]

    def heading(self) -> str:  # noqa: D102
        return "Scores against the number of steps"

    def explanation(self) -> str:  # noqa: D102
        return (
            "Each row is an attack of T steps of its own, not the beginning of a longer one. An attack is efficient "
            "where its line falls early, and has converged where it is flat."
        )


class EpsCurve(Sweep):
    """Scores over ε, for several attacks (check 5 of the trust flags, on all images).

    Scores must fall with ε, and to the level of chance at an ε that allows every image; otherwise gradients are masked.

    Args:
        attacks: The attacks by name, each in a ball and with steps along a gradient.
        eps: The radii ε in units of [0, 1] images, each once, as fractions or decimals; 0 is the clean score.
        step_size: ``"relative"`` keeps the ratio α / ε of the given attack, so that steps reach equally far in every
            ball; ``"constant"`` keeps α.
        name: Name of the study's files.

    Raises:
        StudyError: There is no attack, one cannot be varied, values of ε are not numbers, negative, repeated or empty,
            or ``step_size`` is unknown.
        ValueError: ε is above 1 for a linf attack.
    """

    x_key = "eps"
    x_label = "eps"

    def __init__(
        self,
        attacks: dict[str, Attack],
        eps: list[str | float],
        step_size: Literal["relative", "constant"] = "relative",
        name: str | None = None,
    ):
        super().__init__(name)
        self.varied = check_attacks(attacks)
        radii = {}
        for value in eps:
            try:
                radius = parse_fraction(value, "eps")
            except ValueError as error:
                raise StudyError(str(error)) from None
            if radius < 0:
                raise StudyError(f"eps = {value} is negative: a radius is 0 or more, 8/255 for example.")
            radii[str(value)] = radius
        refuse_repeats("eps", [str(radius) for radius in [parse_fraction(value) for value in eps]])
        if step_size not in ("relative", "constant"):
            raise StudyError(f"step_size = {step_size!r}: use relative or constant.")
        self.eps = sorted(radii.items(), key=lambda item: item[1])
        self.step_size = step_size
        self.attacks()

    def points(self) -> list[Point]:  # noqa: D102
        return [self._point(name, attack, *eps) for name, attack in self.varied.items() for eps in self.eps]

    def _point(self, name: str, attack: Attack, tick: str, eps: Fraction) -> Point:
        if not eps:
            return Point(name, tick, 0.0, CLEAN, None)
        varied = with_eps(name, attack, eps, self.step_size == "relative")
        # An unchanged attack keeps its name, so that it shares records with evaluations that have it.
        same = varied.describe() == attack.describe()
        return Point(name, tick, float(eps), name if same else f"{name} eps {eps}", varied)

    def heading(self) -> str:  # noqa: D102
        return "Scores against eps"

    def explanation(self) -> str:  # noqa: D102
        step = "the same share of eps" if self.step_size == "relative" else "the same size"
        return (
            f"At every eps the step size is {step}. Figures must fall as eps grows and reach the level of chance where "
            "eps allows any image; a curve that rises or stays up shows masked gradients or too few steps."
        )
