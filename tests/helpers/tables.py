"""What tables say."""

from __future__ import annotations

import io

from rich.console import Console

from robustseg.evaluation.table import Table, to_terminal


def texts(table: Table) -> list[list[str]]:
    """The cells of every row, without what stands below them."""
    return [[cell.text for cell in row.cells] for row in table.rows]


def printed(table: Table, width: int = 120) -> str:
    """What a terminal shows."""
    console = Console(file=io.StringIO(), width=width)
    console.print(to_terminal(table))
    return console.file.getvalue()
