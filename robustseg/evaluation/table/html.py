"""Tables in HTML, for pages."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from robustseg.evaluation.table.table import Cell, Column, Failure, Row, Table, Text, Verdict
from robustseg.terminal.text import one_line


def to_html(table: Table, kind: str = "plain") -> Markup:
    """Write a table as a ``table`` element, without title and notes; text below a cell is in small letters.

    Args:
        table: The table.
        kind: CSS class of the element. With ``cards``, each row becomes a card on a narrow screen, and each cell has
            the heading of its column as a label.
    """
    headings = [one_line(heading) for heading in table.headings]
    labels = headings if "cards" in kind.split() else [""] * len(headings)
    head = Markup().join(
        Markup('<th scope="col"{}>{}</th>').format(_class("text" if column.align == "left" else ""), heading)
        for column, heading in zip(table.columns, headings, strict=True)
    )
    lines = [Markup('<table class="{}">\n<thead><tr>{}</tr></thead>\n<tbody>').format(kind, head)]
    for section in table.sections:
        if section.title:
            apart = Markup('<tr class="apart"><th colspan="{}">{}</th></tr>')
            lines.append(apart.format(len(headings), section.title))
        lines += [_row(row, table.columns, labels) for row in section.rows]
    return Markup("\n").join([*lines, Markup("</tbody>\n</table>")])


def _row(row: Row, columns: Sequence[Column], labels: list[str]) -> Markup:
    short = len(columns) - len(row.cells)
    fails = bool(row.cells) and isinstance(row.cells[-1], Failure)
    cells = []
    for place, cell in enumerate([*row.cells, *([] if fails else [Text("")] * short)]):
        span = Markup(' colspan="{}"').format(short + 1) if short and isinstance(cell, Failure) else ""
        label = Markup(' data-label="{}"').format(labels[place]) if labels[place] and not span else ""
        if columns[place].head:
            cells.append(Markup('<th scope="row"{}>{}</th>').format(span, _content(cell)))
        else:
            empty = not cell.text
            content = "" if empty else Markup("<span>{}</span>").format(_content(cell))
            kind = "empty" if empty else f"{cell.kind} {cell.verdict}" if isinstance(cell, Verdict) else cell.kind
            cells.append(Markup("<td{}{}{}>{}</td>").format(_class(kind), label, span, content))
    return Markup("<tr{}>{}</tr>").format(_class(row.kind), Markup().join(cells))


def _content(cell: Cell) -> Markup:
    if isinstance(cell, Failure):
        return Markup("<strong>Could not run:</strong> {}").format(one_line(cell.reason))
    if isinstance(cell, Verdict):
        symbol = Markup('<span class="symbol" aria-hidden="true">{}</span> {}').format(cell.symbol, cell.verdict)
        reason = Markup('<small class="reason">{}</small>').format(one_line(cell.below)) if cell.below else ""
        return Markup('<span class="badge">{}</span>{}').format(symbol, reason)
    name = Markup(' <span class="name">{}</span>').format(one_line(cell.name)) if cell.name else ""
    below = Markup("<small>{}</small>").format(one_line(cell.below)) if cell.below else ""
    return Markup("{}{}{}").format(escape(one_line(cell.text)), name, below)


def _class(kind: str) -> Markup | str:
    return Markup(' class="{}"').format(kind) if kind else ""
