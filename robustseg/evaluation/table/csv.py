"""Tables in CSV, for spreadsheets and programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

from robustseg.evaluation.table.table import MISSING, Cell, Failure, Number, Table, Text, Verdict
from robustseg.terminal.text import one_line

_FORMULA = ("=", "+", "-", "@")
"""First characters of text that a spreadsheet would take for a formula."""


def to_csv(table: Table) -> str:
    """Write a table as CSV: a header and a line for each row, ending in LF; title and notes are left out.

    Numbers have ten significant digits and are in the unit of the header; missing ones are empty. Intervals, names of
    rows and notes below words have their own columns, if any cell has them. Text that a spreadsheet would take for a
    formula begins with an apostrophe.
    """
    columns: list[tuple[str, int, Callable[[Cell], str]]] = []
    for place, column in enumerate(table.columns):
        unit = f" ({column.unit})" if column.unit else ""
        parts: dict[str, Callable[[Cell], str]] = {
            f"{column.heading}{unit}": _value,
            f"{column.heading} low{unit}": lambda cell: _end(cell, 0),
            f"{column.heading} high{unit}": lambda cell: _end(cell, 1),
            f"{column.heading} name": lambda cell: _text(cell.name),
            f"{column.heading} note": lambda cell: "" if isinstance(cell, Number) else _text(cell.below),
        }
        cells = [row.cells[place] for row in table.rows if place < len(row.cells)]
        for heading, part in parts.items():
            if part is _value or any(map(part, cells)):
                columns.append((_text(heading), place, part))
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow([heading for heading, _, _ in columns])
    for row in table.rows:
        writer.writerow([part(row.cells[at]) if at < len(row.cells) else "" for _, at, part in columns])
    return content.getvalue()


def _value(cell: Cell) -> str:
    match cell:
        case Number():
            return f"{cell.value:.10g}"
        case Verdict():
            return cell.verdict
        case Failure() | Text():
            return "" if cell.text == MISSING.text else _text(cell.text)


def _end(cell: Cell, place: int) -> str:
    return f"{cell.interval[place]:.10g}" if isinstance(cell, Number) and cell.interval is not None else ""


def _text(text: str) -> str:
    line = one_line(text)
    return f"'{line}" if line.startswith(_FORMULA) else line
