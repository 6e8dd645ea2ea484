"""A table of figures, apart from how it is written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from robustseg.evaluation.table.escape import one_line


@dataclass(frozen=True)
class Text:
    """Words, or a figure that is written already."""

    text: str
    below: str = ""
    """In small letters, or in brackets."""
    name: str = ""
    """What the user calls it, beside the text."""
    kind: str = ""
    """For pages: lowest, rank."""


@dataclass(frozen=True)
class Number:
    """A figure in the unit of its column."""

    value: float
    digits: int = 2
    """After the point, as shown; CSV has ten significant ones."""
    interval: tuple[float, float] | None = None
    """Both ends of the confidence interval, in the same unit."""
    suffix: str = ""
    """After the shown number, where the column has no one unit."""
    kind: str = ""
    """For pages: lowest, rank."""
    name: ClassVar[str] = ""

    @property
    def text(self) -> str:
        """The number as shown."""
        return f"{self.value:.{self.digits}f}{self.suffix}"

    @property
    def below(self) -> str:
        """The interval as shown."""
        return "" if self.interval is None else f"{self.interval[0]:.1f}–{self.interval[1]:.1f}"


@dataclass(frozen=True)
class Verdict:
    """The result of a check."""

    symbol: str
    verdict: str
    """ok, caution, unreliable or not checked."""
    below: str = ""
    """The reason."""
    name: ClassVar[str] = ""
    kind: ClassVar[str] = "verdict-cell"

    @property
    def text(self) -> str:
        """Symbol and word."""
        return f"{self.symbol} {self.verdict}"


@dataclass(frozen=True)
class Failure:
    """In place of the figures of a row that could not be measured."""

    reason: str
    below: ClassVar[str] = ""
    name: ClassVar[str] = ""
    kind: ClassVar[str] = "error"

    @property
    def text(self) -> str:
        """What is shown."""
        return f"could not run: {self.reason}"


Cell = Text | Number | Verdict | Failure

MISSING = Text("–")
"""In place of a figure that does not exist."""


class Column(NamedTuple):
    """What a table says above its cells."""

    heading: str
    unit: str = ""
    align: Literal["left", "right"] = "right"
    head: bool = False
    """Whether the cells name their row."""
    wrap: bool = True
    """Whether a narrow terminal may break the cells into lines."""


class Row(NamedTuple):
    """One line; cells that are left out at its end are empty."""

    cells: Sequence[Cell]
    kind: str = ""
    """For pages: clean, attack, worst …"""


class Section(NamedTuple):
    """Rows that belong together."""

    rows: Sequence[Row]
    title: str = ""
    """For pages."""


@dataclass(frozen=True)
class Table:
    """Columns and sections of rows."""

    columns: Sequence[Column]
    sections: Sequence[Section]
    title: str = ""
    verdict: Verdict | None = None
    """After the title."""
    notes: Sequence[str] = ()
    shows_headings: bool = True
    shows_units: bool = True
    """False where the title says them; CSV and LaTeX have them in any case."""

    @property
    def rows(self) -> list[Row]:
        """Those of all sections."""
        return [row for section in self.sections for row in section.rows]

    @property
    def headings(self) -> list[str]:
        """As shown: ``miou, %``."""
        return [
            f"{one_line(column.heading)}, {column.unit}"
            if column.unit and self.shows_units
            else one_line(column.heading)
            for column in self.columns
        ]

    @classmethod
    def of(cls, title: str, headings: Iterable[str], rows: Iterable[Sequence[Cell | str]], head: int = 1) -> Table:
        """A plain table.

        Args:
            title: Of the table; may be empty.
            headings: ``miou, %`` is of a column in percent.
            rows: Finished text may be given as such.
            head: Columns from the left that name the row rather than hold figures.
        """
        columns = [
            words(heading) if place < head else Column(heading.removesuffix(", %"), "%" * heading.endswith(", %"))
            for place, heading in enumerate(headings)
        ]
        lines = [Row([Text(cell) if isinstance(cell, str) else cell for cell in row]) for row in rows]
        return cls(columns, [Section(lines)], title)


def words(heading: str, *, wrap: bool = True) -> Column:
    """A column that names the rows."""
    return Column(heading, align="left", head=True, wrap=wrap)


def figure(
    value: Any, digits: int = 2, factor: float = 1.0, interval: Any = None, suffix: str = "", kind: str = ""
) -> Cell:
    """A number, or :data:`MISSING` for everything that is no finite one.

    Args:
        value: What was measured.
        digits: After the point, as shown.
        factor: 100 for percent.
        interval: Both ends, before the factor.
        suffix: After the number.
        kind: See :class:`Number`.
    """
    share = _finite(value)
    if share is None:
        return MISSING
    ends = [_finite(end) for end in interval] if isinstance(interval, list | tuple) and len(interval) == 2 else [None]
    known = [factor * end for end in ends if end is not None]
    return Number(factor * share, digits, (known[0], known[1]) if len(known) == 2 else None, suffix, kind)


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
