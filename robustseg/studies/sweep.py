"""Studies that vary one number of an attack, with a line per attack and a point per value."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from robustseg.attacks import Attack
from robustseg.evaluation.attacking import CLEAN
from robustseg.evaluation.figures import keys_in
from robustseg.evaluation.measurements import Measurements
from robustseg.evaluation.records import record_name
from robustseg.evaluation.report import Curve
from robustseg.evaluation.report.drawing import Plot
from robustseg.evaluation.report.plots import curve_plot
from robustseg.studies.errors import StudyError
from robustseg.studies.study import SCORE_COLUMNS, Answering, Study, StudyResult, percent, score_row


class Point(NamedTuple):
    """One point of a sweep: an attack and its place in the plot."""

    line: str
    """Name of the point's line in the plot."""
    value: int | float | str | None
    """The varied value, as it appears in the rows."""
    x: float
    """Position of the value on the axis."""
    record: str
    """Name of the records; "clean" for a point without attack."""
    attack: Attack | None


class Sweep(Study):
    """A study with one attack per line and value of x."""

    x_key: str
    """Key of x in the rows."""
    x_label: str
    line_key = "attack"
    """Key of the line in the rows."""

    @abstractmethod
    def points(self) -> list[Point]:
        """Return all points, line by line."""

    @abstractmethod
    def heading(self) -> str:
        """Return the title of the study, a few words."""

    @abstractmethod
    def explanation(self) -> str:
        """Explain the rows and how to read them."""

    def attacks(self) -> dict[str, Attack]:  # noqa: D102
        found: dict[str, Attack] = {}
        for point in self.points():
            if point.attack is None:
                continue
            before = found.setdefault(point.record, point.attack)
            if before.describe() != point.attack.describe():
                raise StudyError(f"two different attacks would both be called {point.record!r}: rename one of them.")
        return found

    def result(  # noqa: D102
        self, measured: Measurements, models: Sequence[Answering], class_names: Sequence[str]
    ) -> StudyResult:
        several = len(models) > 1
        rows: list[dict[str, Any]] = []
        for model in models:
            clean = self._row(measured, model, Point(CLEAN, None, 0.0, CLEAN, None), class_names)
            rows.append(clean)
            rows += [self._row(measured, model, point, class_names) for point in self.points()]
        columns = {"model": "scored on"} if several else {}
        columns |= {self.line_key: self.line_key, self.x_key: self.x_label}
        return StudyResult(
            self.heading(),
            self.explanation(),
            {**columns, **SCORE_COLUMNS},
            rows,
            [plot for place, model in enumerate(models) for plot in self.plots(rows, model, place, several)],
        )

    def plots(self, rows: Sequence[dict[str, Any]], model: Answering, place: int, several: bool) -> list[Plot]:
        """Draw a plot per figure for one model.

        Args:
            rows: All rows.
            model: The model whose scores are drawn.
            place: Number of the model, for the names of the plots.
            several: True if there are other models.
        """
        points = self.points()
        ticks = {point.x: str(point.value) for point in points}
        mine = {(row[self.line_key], row["record"]): row for row in rows if row["model"] == model.name}
        where = f", scored on {model.name}" if several else ""
        drawn = []
        for key in keys_in("study plots"):
            by_line: dict[str, dict[float, float | None]] = {point.line: {} for point in points}
            for point in points:
                by_line[point.line][point.x] = percent(mine[point.line, record_name(point.record, model.key)], key)
            lines = {line: [found.get(x) for x in ticks] for line, found in by_line.items()}
            curve = Curve(f"{key}{where}", self.x_label, f"{key}, %", list(ticks), lines, list(ticks.values()))
            drawn.append(curve_plot(f"{self.name}-{key}-{place}", curve))
        return drawn

    def _row(
        self, measured: Measurements, model: Answering, point: Point, class_names: Sequence[str]
    ) -> dict[str, Any]:
        record = record_name(point.record, model.key)
        attack = None if point.attack is None else point.record
        row = {"model": model.name, self.line_key: point.line, self.x_key: point.value, "record": record}
        return {**row, **score_row(measured, record, attack, class_names)}


def check_steps(steps: Sequence[int], name: str = "steps") -> list[int]:
    """Sort numbers of steps in increasing order.

    Raises:
        StudyError: There are none, one is below 1, or one is repeated.
    """
    refuse_repeats(name, steps)
    for count in steps:
        if count < 1:
            raise StudyError(f"{name} = {list(steps)}: {count} is no number of steps, an attack takes at least one.")
    return sorted(steps)


def refuse_repeats(name: str, values: Sequence[Any]) -> None:
    """Refuse an empty list and repeated values.

    Raises:
        StudyError: The list is empty, or a value is repeated.
    """
    if not values:
        raise StudyError(f"{name} = []: give at least one value.")
    twice = next(iter(_repeated(values)), None)
    if twice is not None:
        raise StudyError(f"{name} = {list(values)}: {twice} is there twice, leave one out.")


def _repeated(values: Iterable[Any]) -> list[Any]:
    values = list(values)
    return [value for place, value in enumerate(values) if value in values[:place]]


def numbered(name: str, number: int) -> str:
    """Append a number to a name: ``pgd`` and 20 give ``pgd20``, ``pgd10`` and 20 give ``pgd10_20``."""
    return f"{name}_{number}" if name[-1:].isdigit() else f"{name}{number}"
