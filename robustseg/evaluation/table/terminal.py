"""Tables in the terminal."""

from __future__ import annotations

import rich.table
from rich.text import Text

from robustseg.evaluation.table.table import Cell, Failure, Table, Verdict
from robustseg.terminal.text import one_line

_STYLES = {"ok": "green", "caution": "yellow", "unreliable": "bold red"}

_LONGEST = 24
"""Columns of a name that may not be broken."""
_SHORTEST = 6
"""Columns of words at least, also where figures are cut off at the right."""


def to_terminal(table: Table) -> rich.table.Table:
    """Convert a table to one of ``rich``, with a rule between sections, without text below cells and without reasons.

    No text is interpreted as markup.
    """
    title = Text(one_line(table.title), style="table.title")
    if table.verdict is not None:
        title = Text.assemble(title, " ", _cell(table.verdict))
    drawn = rich.table.Table(
        title=title if title.plain else None,
        title_justify="left",
        caption_justify="left",
        caption=Text(" ".join(map(one_line, table.notes)), style="table.caption") if table.notes else None,
        show_header=table.shows_headings,
    )
    for place, (column, heading) in enumerate(zip(table.columns, table.headings, strict=True)):
        longest = max((_cell(row.cells[place]).cell_len for row in table.rows if place < len(row.cells)), default=0)
        drawn.add_column(
            Text(heading),
            justify=column.align,
            # a long name is broken into lines before a figure is
            no_wrap=not column.wrap and longest <= _LONGEST,
            min_width=longest if column.align == "right" else min(longest, _SHORTEST),
            overflow="fold" if column.head else "ellipsis",
        )
    for section in table.sections:
        for row in section.rows:
            drawn.add_row(*map(_cell, row.cells))
        drawn.add_section()
    return drawn


def _cell(cell: Cell) -> Text:
    if isinstance(cell, Failure):  # the reason would make its column too wide
        return Text("could not run")
    return Text(one_line(cell.text), style=_STYLES.get(cell.verdict, "") if isinstance(cell, Verdict) else "")
