"""Tables in Markdown."""

from __future__ import annotations

import re

from robustseg.evaluation.table.table import Cell, Failure, Table, Verdict
from robustseg.terminal.text import one_line

_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]|~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def escape(text: str) -> str:
    """Escape ``text`` for Markdown, on one line, also inside a table."""
    return one_line(text).translate(_SPECIAL)


def to_markdown(table: Table) -> str:
    """Write a table without its title and notes; text below a cell follows in brackets."""
    width = len(table.columns)
    lines = [
        # Within a word, as in pixel_acc, an underscore needs no escape.
        [re.sub(r"(?<=\w)\\_(?=\w)", "_", escape(heading)) for heading in table.headings],
        ["---" if column.align == "left" else "---:" for column in table.columns],
        *([*map(_cell, row.cells), *[""] * (width - len(row.cells))] for row in table.rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    text, below = escape(cell.text), escape(cell.below)
    if cell.name:
        return f"{escape(cell.name)}: {', '.join(filter(None, (text, below)))}"
    if isinstance(cell, Verdict | Failure):
        return f"{text}: {below}" if below else text
    if cell.kind == "lowest":
        text = f"**{text}**"
    return f"{text} ({below})" if below else text
