"""The report of one evaluation as Markdown, with the page's content except pictures and plots."""

from __future__ import annotations

import os

from robustseg.evaluation.card import Card
from robustseg.evaluation.report import detected, tables, view
from robustseg.evaluation.table import to_markdown
from robustseg.evaluation.table.markdown import escape
from robustseg.files import write_text


def write_markdown(card: Card, path: str | os.PathLike[str]) -> None:
    """Write the report as a Markdown file; arguments and errors are those of ``write_report``."""
    write_text(report_markdown(card), path)


def report_markdown(card: Card) -> str:
    """Return the text of :func:`write_markdown`'s file."""
    known = card.clean.no_confidence is None
    intervals = ", in brackets the 95 % bootstrap interval over images" if known else ""
    parts = [
        f"# Robustness of {escape(view.title(card))}",
        f"**{view.SYMBOLS[card.verdict]} {card.verdict}.** {view.VERDICT_LINES[card.verdict]} "
        f"{view.checks_summary(card)}",
        "\n".join(
            f"- **{tile.label}** {tile.clean} → {tile.robust} % ({escape(tile.below)})" for tile in view.tiles(card)
        ),
        "\n".join(f"- {name}: {escape(value)}" for name, value in view.facts(card).items()),
        "## Scores",
        to_markdown(tables.scores(card, summaries=False)),
        f"In percent{intervals}; gaps in points below clean; forwards and backwards per image. Bold: the lowest under "
        "a single attack.",
        *map(escape, view.notes(card)),
        *_detectors(card),
        "## Can the figures be trusted?",
        to_markdown(tables.flags(card)) if card.flags else "No check was run.",
        "## Perturbations",
        to_markdown(tables.sizes(card)),
        "Largest sizes over all images, as computed and after rounding the adversarial images to 8 bit. Linf in steps "
        "of an 8-bit image, L2 in units of the [0, 1] pixel range.",
        "## IoU of each class",
        to_markdown(tables.classes(card)),
        "## Settings",
        *(
            _settings(f"{name} ({summary})", values)
            for name, summary, values in (*view.settings(card), *detected.settings(card))
        ),
        _settings("Model and data", view.model_settings(card)),
        "## Evidence of the checks",
        *(_evidence(card) or ["None."]),
    ]
    return "\n\n".join(parts) + "\n"


def _detectors(card: Card) -> list[str]:
    if not card.detectors:
        return []
    return [
        "## Detectors in front of the model",
        to_markdown(tables.detectors(card)),
        "\n".join(f"- {escape(line)}" for line in detected.lines(card)),
        escape(detected.note(card)),
    ]


def _evidence(card: Card) -> list[str]:
    known = [flag for flag in view.flags(card) if flag.evidence]
    return [f"### {flag.number}. {escape(flag.name)}\n\n{_block(flag.evidence)}" for flag in known]


def _block(text: str) -> str:
    """Indent text as code; the text could close a fence."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _settings(heading: str, values: dict[str, str]) -> str:
    lines = [f"- {escape(key)}: {escape(value)}" for key, value in values.items()]
    return "\n".join([f"### {escape(heading)}", "", *lines])
