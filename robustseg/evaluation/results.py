"""What an evaluation prints and writes: tables for the terminal, JSON for everything else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from robustseg.evaluation.card import Card, Figured
from robustseg.evaluation.figures import Figure, shown_in
from robustseg.evaluation.record import FOOLED


def scores_table(card: Card) -> Table:
    """A terminal table of a result card, one row per attack: scores in percent, and what an image cost."""
    data = card.data
    table = Table(title=f"{data.name} {data.split}, {data.images} images, in %", title_justify="left")
    rows = [card.clean, *card.ran.values()]
    # Figures that every card has, and others where an attack has them.
    columns = [f for f in shown_in("terminal") if f.required or any(row[f.key] is not None for row in rows)]
    table.add_column("attack", no_wrap=True)
    for column in columns:
        table.add_column(column.key, justify="right")
    table.add_row("clean", *(_cell(card.clean, column) for column in columns))
    for name, row in card.attacks.items():
        cells = [_cell(row, column) for column in columns] if row.error is None else ["could not run"]
        table.add_row(name, *cells)
    if card.worst_case is not None and len(card.attacks) > 1:
        table.add_section()
        names = {"per_image": "worst per image", "greedy": "worst, greedy"}
        for kind, worst in card.worst_case.kinds():
            table.add_row(names[kind], *(_cell(worst, column) for column in columns))
    return table


def _cell(row: Figured, figure: Figure) -> str:
    """Empty where a row is of nothing that costs calls."""
    if figure.unit != "share":
        return shown(row[figure.key], figure.digits) if row.has(figure.key) else ""
    return shown(row[figure.key], 2, 100)


def distances_table(card: Card) -> Table | None:
    """A terminal table of how far attacks without a bound went to fool an image; None without such attacks."""
    title = f"perturbations that fool {FOOLED:.0%} of an image's valid pixels, or what an attack's success asks for"
    table = Table(title=title, title_justify="left")
    table.add_column("attack")
    for figure in shown_in("distances"):
        table.add_column(figure.heading, justify="right")
    for name, row in card.ran.items():
        if row.settings.eps is None and not row.settings.targeted:
            table.add_row(name, *(_size_cell(row[f.key], f) for f in shown_in("distances")))
    return table if table.row_count else None


def _size_cell(value: float | None, figure: Figure) -> str:
    suffix = {"share": " %", "linf": "/255"}.get(figure.unit, "")
    text = shown(value, figure.digits, figure.factor)
    return text if value is None else f"{text}{suffix}"


def rejection_table(card: Card) -> Table | None:
    """A terminal table of the detectors in front of the model; None without any."""
    if not card.detectors:
        return None
    table = Table(title="detectors in front of the model, in %", title_justify="left")
    table.add_column("detector")
    table.add_column("attack", no_wrap=True)
    for column in ("rejected", "AUC", "accepted images", "accepted miou", "pixel_acc, rejection right"):
        table.add_column(column, justify="right")
    for name, found in card.detectors.items():
        for attack, row in found.rows().items():
            if row.accepted is None or row.with_rejection is None:
                table.add_row(name, attack, "could not run")
                continue
            # A clean image that is rejected is a mistake.
            counted = f"{shown(row.with_rejection.pixel_acc, 2, 100)}{' *' if attack == 'clean' else ''}"
            passed = row.accepted
            auc = "" if attack == "clean" else shown(row.auc, 2, 100)
            cells = (shown(row.rejected, 2, 100), auc, str(passed.images), shown(passed.miou, 2, 100), counted)
            table.add_row(name, attack, *cells)
        table.add_section()
    table.caption = "* rejected clean images count as wrong. An attack that does not know a detector says little of it."
    return table


def flags_table(card: Card) -> Table:
    """A terminal table of the trust flags; those that were not checked share a line."""
    marks = {"ok": "[green]✓ ok[/]", "caution": "[yellow]! caution[/]", "unreliable": "[red bold]✗ unreliable[/]"}
    title = f"can these figures be trusted? {marks[card.verdict]}"
    table = Table(title=title, title_justify="left", show_header=False)
    for flag in card.flags:
        if flag.verdict in marks:
            table.add_row(str(flag.number), flag.name, marks[flag.verdict], flag.line)
    unchecked = [flag for flag in card.flags if flag.verdict not in marks]
    if unchecked:
        names = ", ".join(f"{flag.number} {flag.name}" for flag in unchecked)
        line = " ".join(dict.fromkeys(flag.line for flag in unchecked))
        table.add_row("", "", "– not checked", f"{names}. {line}")
    return table


def shown(figure: float | None, digits: int, factor: float = 1.0) -> str:
    """A figure for people; "–" where there is none."""
    return "–" if figure is None else f"{factor * figure:.{digits}f}"


def write_json(record: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write ``record`` so that ``path`` holds either its old content or all of the new one."""
    write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", path)


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write ``text`` so that ``path`` holds either its old content or all of the new one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
