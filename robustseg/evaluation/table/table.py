"""Tables of figures, independent of the output format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from robustseg.terminal.text import one_line


@dataclass(frozen=True)
class Text:
    """A cell with words, or with a figure that is formatted already."""

    text: str
    below: str = ""
    """Text below, in small letters or in brackets."""
    name: str = ""
    """Name that the user gave, beside the text."""
    kind: str = ""
    """CSS class in pages: lowest, rank."""


@dataclass(frozen=True)
class Number:
    """A cell with a figure in the unit of its column."""

    value: float
    digits: int = 2
    """Number of decimals that are shown; CSV has ten significant digits."""
    interval: tuple[float, float] | None = None
    """Both ends of the confidence interval, in the same unit."""
    suffix: str = ""
    """Text after the number, in columns without a common unit."""
    kind: str = ""
    """CSS class in pages: lowest, rank."""
    name: ClassVar[str] = ""

    @property
    def text(self) -> str:
        """The number as text."""
        return f"{self.value:.{self.digits}f}{self.suffix}"

    @property
    def below(self) -> str:
        """The interval as text."""
        return "" if self.interval is None else ends_text(*self.interval)


@dataclass(frozen=True)
class Verdict:
    """A cell with the result of a check."""

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
    """A cell in place of the figures of a row that could not be measured."""

    reason: str
    below: ClassVar[str] = ""
    name: ClassVar[str] = ""
    kind: ClassVar[str] = "error"

    @property
    def text(self) -> str:
        """The reason in words."""
        return f"could not run: {self.reason}"


Cell = Text | Number | Verdict | Failure

MISSING = Text("–")
"""Cell in place of a figure that does not exist."""


class Column(NamedTuple):
    """A column's heading, unit and layout."""

    heading: str
    unit: str = ""
    align: Literal["left", "right"] = "right"
    head: bool = False
    """True if the cells name their row."""
    wrap: bool = True
    """True if a narrow terminal may break the cells into lines."""


class Row(NamedTuple):
    """A row of cells; missing cells at its end are empty."""

    cells: Sequence[Cell]
    kind: str = ""
    """CSS class in pages: clean, attack, worst …"""


class Section(NamedTuple):
    """A group of rows."""

    rows: Sequence[Row]
    title: str = ""
    """Title in pages."""


@dataclass(frozen=True)
class Table:
    """A table with columns and sections of rows."""

    columns: Sequence[Column]
    sections: Sequence[Section]
    title: str = ""
    verdict: Verdict | None = None
    """Verdict that follows the title."""
    notes: Sequence[str] = ()
    shows_headings: bool = True
    shows_units: bool = True
    """False if the title names the units; CSV and LaTeX always have them."""

    @property
    def rows(self) -> list[Row]:
        """The rows of all sections."""
        return [row for section in self.sections for row in section.rows]

    @property
    def headings(self) -> list[str]:
        """The headings with units, such as ``miou, %``."""
        return [
            f"{one_line(column.heading)}, {column.unit}"
            if column.unit and self.shows_units
            else one_line(column.heading)
            for column in self.columns
        ]

    @classmethod
    def of(cls, title: str, headings: Iterable[str], rows: Iterable[Sequence[Cell | str]], head: int = 1) -> Table:
        """Make a table with one section.

        Args:
            title: Title of the table; may be empty.
            headings: Headings of the columns; one such as ``miou, %`` makes a column in percent.
            rows: Cells of each row; a string is a cell with this text.
            head: Number of leading columns that name the row.
        """
        columns = [
            words(heading) if place < head else Column(heading.removesuffix(", %"), "%" * heading.endswith(", %"))
            for place, heading in enumerate(headings)
        ]
        lines = [Row([Text(cell) if isinstance(cell, str) else cell for cell in row]) for row in rows]
        return cls(columns, [Section(lines)], title)


def words(heading: str, *, wrap: bool = True) -> Column:
    """Make a column that names the rows."""
    return Column(heading, align="left", head=True, wrap=wrap)


def ends_text(low: float, high: float) -> str:
    """Write the ends of an interval with as many decimals as it takes to tell them apart, at least one."""
    written = ((f"{low:.{digits}f}", f"{high:.{digits}f}") for digits in range(1, 7))
    return "–".join(next((pair for pair in written if pair[0] != pair[1]), (f"{low:.1f}", f"{high:.1f}")))


def figure(value: Any, digits: int = 2, factor: float = 1.0, interval: Any = None, suffix: str = "") -> Cell:
    """Make a cell with a number, or :data:`MISSING` for a value that is no finite number.

    Args:
        value: The measured value.
        digits: Number of decimals that are shown.
        factor: Factor on value and interval, 100 for percent.
        interval: Both ends of the confidence interval, before the factor.
        suffix: Text after the number.
    """
    share = finite(value)
    if share is None:
        return MISSING
    ends = [finite(end) for end in interval] if isinstance(interval, list | tuple) and len(interval) == 2 else [None]
    known = [factor * end for end in ends if end is not None]
    return Number(factor * share, digits, (known[0], known[1]) if len(known) == 2 else None, suffix)


def finite(value: Any) -> float | None:
    """Return a finite float, or None for a value that is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
