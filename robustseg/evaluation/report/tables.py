"""The tables of a report, for HTML and Markdown."""

from __future__ import annotations

from robustseg.evaluation.card import Card
from robustseg.evaluation.report import detected, view
from robustseg.evaluation.table import Cell, Column, Failure, Row, Section, Table, Text, Verdict, words


def scores(card: Card, *, summaries: bool) -> Table:
    """Build the main table: clean, each attack, the worst cases.

    Args:
        card: The result card.
        summaries: True for a short description of each attack below its name.
    """
    rows, columns = [], view.columns(card)
    for row in view.rows(card):
        found: list[Cell] = [Failure(row.error)] if row.error else [row.cells.get(key, Text("")) for key in columns]
        rows.append(Row([Text(row.name, row.below if summaries else ""), *found], row.kind))
    return Table([words("attack"), *map(Column, columns.values())], [Section(rows)])


def detectors(card: Card) -> Table:
    """Build the table of the detectors in front of the model; it has no rows without detectors."""
    rows = [
        Row([Text(row.detector), Text(row.attack), *map(Text, row.cells)], "clean" if row.attack == "clean" else "")
        for row in detected.rows(card)
    ]
    return Table([words("detector"), words("attack"), *map(Column, detected.COLUMNS)], [Section(rows)])


def flags(card: Card) -> Table:
    """Build the table of the checks."""
    rows = [
        Row(
            [
                Text(str(flag.number)),
                Text(flag.name),
                Verdict(view.SYMBOLS[flag.verdict], flag.verdict),
                Text(flag.line),
            ]
        )
        for flag in view.flags(card)
    ]
    return Table([words(heading) for heading in ("", "check", "verdict", "finding")], [Section(rows)])


def sizes(card: Card) -> Table:
    """Build the table of perturbation sizes per attack."""
    headings, rows = view.size_table(card)
    return Table.of("", ["attack", *headings], ([name, *cells] for name, cells in rows))


def classes(card: Card) -> Table:
    """Build the table of the IoU of each class."""
    headings, rows = view.class_table(card)
    return Table.of("", ["class", *headings], ([name, *cells] for name, cells in rows))
