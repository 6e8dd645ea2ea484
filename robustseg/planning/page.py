"""Plans as texts: a table of 80 columns and the commands that follow from it, and the same as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from robustseg.evaluation.table import Cell, Column, Row, Section, Table, Text, to_terminal, words
from robustseg.planning.bill import Bill, Item
from robustseg.planning.times import time_text
from robustseg.terminal.text import write

COLUMNS = 80
"""Columns of a plan in a file."""
AT_MOST = "≤ means at most: images whose pixels are all fooled end earlier."


def table_of(bill: Bill, title: str, counted: str = "images") -> Table:
    """Return the table of a bill.

    Args:
        bill: The bill.
        title: Title of the table.
        counted: What the items count.
    """
    whole = bill.seconds()
    rows = [_row(item, whole) for item in bill.items]
    start = Row([Text("start"), Text(""), Text(""), Text(""), Text(time_text(bill.start)), _share(bill.start, whole)])
    total = Row([Text("in all"), Text(""), Text(""), Text(""), Text(_total(bill)), Text("")])
    heads = [Column(counted), Column("gradients"), Column("forwards"), Column("time"), Column("share")]
    notes = [AT_MOST] if any(item.early and not item.error for item in bill.items) else []
    return Table([words(""), *heads], [Section([*rows, start]), Section([total])], title, notes=notes)


def _row(item: Item, whole: float) -> Row:
    if item.error:
        return Row([Text(item.name), Text(str(item.count)), Text(""), Text(""), Text("cannot run"), Text("")])
    bound = "≤ " if item.early else ""
    counts = [Text(f"{bound}{count:,.0f}" if count else "") for count in (item.gradients, item.forwards)]
    about = bound if item.likely is None else "~ "
    time = f"{about}{time_text(item.expected)}"
    count = Text(f"{item.count:,}" if item.count else "")
    return Row([Text(item.name), count, *counts, Text(time), _share(item.expected, whole)])


def _share(seconds: float, whole: float) -> Cell:
    return Text(f"{100 * seconds / whole:.0f} %" if whole else "")


def _total(bill: Bill) -> str:
    likely, most = time_text(bill.seconds()), time_text(bill.seconds(at_most=True))
    bounded = any(item.early and item.likely is None for item in bill.items)
    return f"{'≤ ' if bounded else ''}{likely}" + (f" (≤ {most})" if likely != most else "")


def print_plan(table: Table, lines: Sequence[str]) -> None:
    """Print a table and lines below it; commands are not broken into lines."""
    console = Console() if sys.stdout.isatty() else Console(width=COLUMNS)
    console.print(to_terminal(table))
    for line in lines:
        write(line)


def memory_text(count: int) -> str:
    """Format a size in memory: ``812 MiB``, ``3.2 GiB``."""
    mebibytes = count / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f} GiB"


def as_json(bill: Bill, **more: Any) -> dict[str, Any]:
    """Return a bill as plain data; times are in seconds, the memory is in bytes."""
    items = [
        {
            "name": item.name,
            "count": item.count,
            "gradients": item.gradients,
            "forwards": item.forwards,
            "seconds": item.expected,
            "seconds_at_most": item.seconds,
            "may_end_earlier": item.early,
            "shared": item.shared,
            "error": item.error or None,
        }
        for item in bill.items
    ]
    return {
        "device": bill.device,
        "memory": bill.memory,
        "start": bill.start,
        "seconds": bill.seconds(),
        "seconds_at_most": bill.seconds(at_most=True),
        "batches": bill.batches,
        "kept": bill.kept,
        "measured_in": bill.took,
        **more,
        "items": items,
    }
