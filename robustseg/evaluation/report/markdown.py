"""The report of one evaluation as Markdown: what the page says, without its pictures and plots."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from robustseg.evaluation.card import Card
from robustseg.evaluation.report import detected, view
from robustseg.evaluation.report.pages import write_text

_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]|~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def write_markdown(card: Card, path: str | os.PathLike[str]) -> None:
    """Write the report as Markdown; arguments and errors as of ``write_report``."""
    write_text(report_markdown(card), path)


def report_markdown(card: Card) -> str:
    """The text of :func:`write_markdown`'s file."""
    parts = [
        f"# Robustness of {escape(view.title(card))}",
        f"**{view.SYMBOLS[card.verdict]} {card.verdict}.** {view.VERDICT_LINES[card.verdict]} "
        f"{view.checks_summary(card)}",
        "\n".join(
            f"- **{tile.label}** {tile.clean} → {tile.robust} % ({escape(tile.below)})" for tile in view.tiles(card)
        ),
        "\n".join(f"- {name}: {escape(value)}" for name, value in view.facts(card).items()),
        "## Scores",
        _scores(card),
        "In percent, in brackets the 95 % bootstrap interval over images; gaps in points below clean; forwards and "
        "backwards per image. Bold: the lowest under a single attack.",
        *_detectors(card),
        "## Can the figures be trusted?",
        _checks(card),
        "## Perturbations",
        _named_table("attack", *view.size_table(card)),
        "Largest sizes over all images, as computed and after rounding the adversarial images to 8 bit. Linf in steps "
        "of an 8-bit image, L2 in units of the [0, 1] pixel range.",
        "## IoU of each class",
        _named_table("class", *view.class_table(card)),
        "## Settings",
        *(_settings(f"{name} ({summary})", values) for name, summary, values in _all_settings(card)),
        _settings("Model and data", view.model_settings(card)),
        "## Evidence of the checks",
        *(_evidence(card) or ["None."]),
    ]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """``text`` as it stands, on one line, also inside a table."""
    return " ".join(text.split()).translate(_SPECIAL)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table of finished cells: the first ``words`` columns to the left, figures to the right."""
    lines = [headings, ["---" if place < words else "---:" for place in range(len(headings))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _named_table(first: str, headings: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    cells = ([escape(name), *map(escape, row)] for name, row in rows)
    return table([first, *map(escape, headings)], cells)


def _scores(card: Card) -> str:
    rows = []
    for row in view.rows(card):
        if row.error:
            cells = [f"could not run: {escape(row.error)}", *[""] * (len(view.COLUMNS) - 1)]
        else:
            cells = [_cell(row.cells.get(key, view.Cell(""))) for key in view.COLUMNS]
        rows.append([escape(row.name), *cells])
    return table(["attack", *view.COLUMNS.values()], rows)


def _detectors(card: Card) -> list[str]:
    if not card.detectors:
        return []
    rows = [[escape(row.detector), escape(row.attack), *map(escape, row.cells)] for row in detected.rows(card)]
    return [
        "## Detectors in front of the model",
        table(["detector", "attack", *detected.COLUMNS], rows, words=2),
        "\n".join(f"- {escape(line)}" for line in detected.lines(card)),
        escape(detected.note(card)),
    ]


def _all_settings(card: Card) -> list[tuple[str, str, dict[str, str]]]:
    return [*view.settings(card), *detected.settings(card)]


def _cell(cell: view.Cell) -> str:
    text = f"**{cell.text}**" if cell.lowest else cell.text
    return f"{text} ({cell.below})" if cell.below else text


def _checks(card: Card) -> str:
    flags = [[flag.number, escape(flag.name), _badge(flag.verdict), escape(flag.line)] for flag in view.flags(card)]
    return table(["", "check", "verdict", "finding"], flags, words=4) if flags else "No check was run."


def _evidence(card: Card) -> list[str]:
    known = [flag for flag in view.flags(card) if flag.evidence]
    return [f"### {flag.number}. {escape(flag.name)}\n\n{_block(flag.evidence)}" for flag in known]


def _badge(verdict: str) -> str:
    return f"{view.SYMBOLS[verdict]} {verdict}"


def _block(text: str) -> str:
    """Indented as code: no fence that the text could close."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _settings(heading: str, values: dict[str, str]) -> str:
    lines = [f"- {escape(key)}: {escape(value)}" for key, value in values.items()]
    return "\n".join([f"### {escape(heading)}", "", *lines])
