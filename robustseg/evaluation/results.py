"""Tables of a result card that an evaluation prints in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from robustseg.evaluation.card import Card, DetectorRow, Figured
from robustseg.evaluation.figures import Figure, shown_in
from robustseg.evaluation.record import FOOLED
from robustseg.evaluation.report.wording import searched
from robustseg.evaluation.table import Cell, Column, Failure, Row, Section, Table, Text, Verdict, figure, words
from robustseg.evaluation.targets import BY_CONSTRUCTION, OWN

_SYMBOLS = {"ok": "✓", "caution": "!", "unreliable": "✗"}
_SUFFIXES = {"share": " %", "linf": "/255"}
"""Suffixes of numbers in columns without a common unit, by unit."""


def tables_of(card: Card) -> list[Table]:
    """Return all tables for the terminal."""
    found = (scores_table(card), distances_table(card), rejection_table(card), flags_table(card))
    return [table for table in found if table is not None]


def scores_table(card: Card) -> Table:
    """Build the table of scores in percent and cost per image, with one row per attack."""
    data, ran = card.data, [card.clean, *card.ran.values()]
    # Required figures always have a column, other figures only if an attack has them.
    columns = [f for f in shown_in("terminal") if f.required or any(row[f.key] is not None for row in ran)]
    # A column too, since CSV has neither titles nor notes.
    own = [Text(card.protocol.targets)] if card.protocol.targets != "labels" else []
    rows = [Row([Text("clean"), *own, *_scores(card.clean, columns)], "clean")]
    for name, row in card.attacks.items():
        found = _scores(row, columns) if row.error is None else [Failure(row.error)]
        rows.append(Row([Text(name), *own, *found], "attack"))
    worst = []
    if card.worst_case is not None and len(card.attacks) > 1:
        names = {"per_image": "worst per image", "greedy": "worst, greedy"}
        for kind, figured in card.worst_case.kinds():
            worst.append(Row([Text(names[kind]), *own, *_scores(figured, columns)], "worst"))
    headings = [Column(f.key, "%" if f.unit == "share" else "") for f in columns]
    return Table(
        [words("attack", wrap=False), *([words("targets")] if own else []), *headings],
        [Section(rows), Section(worst)],
        f"{data.name} {data.split}, {data.images} images, in %{f', against {OWN}' if own else ''}",
        notes=([BY_CONSTRUCTION] if own else []) + _search_note(card),
        shows_units=False,
    )


def _search_note(card: Card) -> list[str]:
    search = card.protocol.search
    return [] if search is None else [f"Attacks searched in {searched(search)}."]


def _scores(row: Figured, columns: Sequence[Figure]) -> list[Cell]:
    return [
        figure(row[f.key], 2, f.factor, row.interval(f.key))
        if f.unit == "share"
        # Empty for rows without a cost, such as the worst cases.
        else figure(row[f.key], f.digits)
        if row.has(f.key)
        else Text("")
        for f in columns
    ]


def distances_table(card: Card) -> Table | None:
    """Build the table of distances that attacks without a bound needed; return None if there is no such attack."""
    rows = [
        Row(
            [
                Text(name),
                *(
                    figure(row[f.key], f.digits, f.factor, suffix=_SUFFIXES.get(f.unit, ""))
                    for f in shown_in("distances")
                ),
            ]
        )
        for name, row in card.ran.items()
        if row.settings.eps is None and not row.settings.targeted
    ]
    title = f"perturbations that fool {FOOLED:.0%} of an image's valid pixels, or what an attack's success asks for"
    columns = [words("attack"), *(Column(f.heading) for f in shown_in("distances"))]
    return Table(columns, [Section(rows)], title) if rows else None


def rejection_table(card: Card) -> Table | None:
    """Build the table of the detectors in front of the model; return None without detectors."""
    if not card.detectors:
        return None
    sections = []
    for name, found in card.detectors.items():
        rows = []
        for attack, row in found.rows().items():
            cells = _rejected(row, attack == "clean") if row.error is None else [Failure(row.error)]
            rows.append(Row([Text(name), Text(attack), *cells]))
        sections.append(Section(rows))
    return Table(
        [
            words("detector"),
            words("attack", wrap=False),
            *(Column(key, "%") for key in ("rejected", "AUC")),
            Column("accepted images"),
            *(Column(key, "%") for key in ("accepted miou", "pixel_acc, rejection right")),
        ],
        sections,
        "detectors in front of the model, in %",
        notes=["* rejected clean images count as wrong. An attack that does not know a detector says little of it."],
        shows_units=False,
    )


def _rejected(row: DetectorRow, clean: bool) -> list[Cell]:
    assert row.accepted is not None
    assert row.with_rejection is not None
    return [
        figure(row.rejected, 2, 100),
        Text("") if clean else figure(row.auc, 2, 100),
        figure(row.accepted.images, 0),
        figure(row.accepted.miou, 2, 100),
        # For clean images, a rejection is an error.
        figure(row.with_rejection.pixel_acc, 2, 100, suffix=" *" if clean else ""),
    ]


def flags_table(card: Card) -> Table:
    """Build the table of the trust flags; those that were not checked share a line."""
    rows = [
        Row([Text(str(flag.number)), Text(flag.name), _verdict(flag.verdict), Text(flag.line)])
        for flag in card.flags
        if flag.verdict in _SYMBOLS
    ]
    unchecked = [flag for flag in card.flags if flag.verdict not in _SYMBOLS]
    if unchecked:
        names = ", ".join(f"{flag.number} {flag.name}" for flag in unchecked)
        line = " ".join(dict.fromkeys(flag.line for flag in unchecked))
        rows.append(Row([Text(""), Text(""), Text("– not checked"), Text(f"{names}. {line}")]))
    return Table(
        [words(heading) for heading in ("", "check", "verdict", "finding")],
        [Section(rows)],
        "can these figures be trusted?",
        _verdict(card.verdict),
        shows_headings=False,
    )


def _verdict(verdict: str) -> Verdict:
    return Verdict(_SYMBOLS[verdict], verdict)
