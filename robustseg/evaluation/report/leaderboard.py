"""Leaderboards: results of several models, ranked in one table if their protocols are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from robustseg.evaluation.card import Card, Figured
from robustseg.evaluation.errors import ReportError
from robustseg.evaluation.figures import keys_in, shown_in
from robustseg.evaluation.report import view
from robustseg.evaluation.report.pages import render
from robustseg.evaluation.report.wording import (
    DIGITS,
    NOTHING,
    model_name,
    plain,
    search_name,
    settings_of,
    sha,
    shorten,
    threat,
    training,
)
from robustseg.evaluation.table import (
    MISSING,
    Cell,
    Column,
    Number,
    Row,
    Section,
    Table,
    Text,
    Verdict,
    figure,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
    words,
)
from robustseg.evaluation.table.markdown import escape

COLUMNS = {
    **{f"worst_{figure.key}": f"worst-case {figure.heading}" for figure in shown_in("leaderboard")},
    **{f"clean_{figure.key}": f"clean {figure.heading}" for figure in shown_in("leaderboard")},
    "attacks": "attacks",
    "verdict": "verdict",
}
"""Figures of a table with their headings; the first one decides the rank."""

EXPLANATION = (
    "Ranked by worst-case pixel_acc: each image under the attack that leaves the fewest of its pixels correct, which "
    "is exact and does not depend on an order of images; worst-case miou is the greedy one. In percent, with the 95 % "
    "bootstrap interval over images: smaller differences than that may be chance. Results equal as shown share a rank. "
    "Results that a check found unreliable, or that lack an attack, have no rank and stand below the others."
)

_PROTOCOL = {
    "data": ("name", "split", "sha256", "images", "split_images", "ids", "ignore_index", "image_size", "class_names"),
    "protocol": ("norm", "eps", "precision", "seed"),
}
_MISSING = "not in the card"
_SHOWN_DIFFERENCES = 12
_VALUE_LENGTH = 60


class Entry(NamedTuple):
    """The line of one model."""

    rank: int | None
    """Rank of the model; figures that are displayed as equal share one. None for results that are not ranked."""
    name: str
    """Name that the card is shown under, such as its folder."""
    model: str
    below: str
    """Description of training and checkpoint."""
    cells: Mapping[str, Cell]
    verdict: str
    reason: str
    """Reason why there is no rank; empty otherwise."""


class LeaderboardTable(NamedTuple):
    """The models under one protocol."""

    heading: str
    below: str
    entries: tuple[Entry, ...]
    """Entries, the ranked ones first."""


class Leaderboard(NamedTuple):
    """A leaderboard with one table per protocol."""

    tables: tuple[LeaderboardTable, ...]


def build_leaderboard(cards: Mapping[str, Card], *, group: bool = False) -> Leaderboard:
    """Rank models by their worst case.

    Figures are comparable only when data, scored images, ignored label, resolution, threat, precision, seed and every
    attack with all of its settings are the same. Suites are compared by their attacks, not by their names.

    Args:
        cards: Result cards by the name they are shown under.
        group: Make one table for each protocol, instead of refusing cards that differ.

    Raises:
        ReportError: There is no card, protocols differ without ``group``, or a checkpoint appears twice in one table.
    """
    if not cards:
        raise ReportError("no result card given: name the folder of at least one finished evaluation.")
    protocols = {name: protocol_of(card) for name, card in cards.items()}
    groups: dict[str, dict[str, Card]] = {}
    for name, facts in protocols.items():
        groups.setdefault(json.dumps(facts, sort_keys=True, default=str), {})[name] = cards[name]
    if len(groups) > 1 and not group:
        raise ReportError(_refusal(protocols))
    for members in groups.values():
        _refuse_duplicates(members)
    tables = [_table(members) for members in groups.values()]
    return Leaderboard(tuple(sorted(tables, key=lambda found: (found.heading, found.below, found.entries[0].name))))


def protocol_of(card: Card) -> dict[str, Any]:
    """Return everything in which two cards must agree to be compared, by key, with each setting on its own."""
    parts = {"data": card.data.as_dict(), "protocol": card.protocol.as_dict()}
    found = {f"{part}.{key}": parts[part].get(key, _MISSING) for part, keys in _PROTOCOL.items() for key in keys}
    found["protocol.targets"] = card.protocol.targets  # labels in cards from before there was a choice
    found["protocol.count_void"] = card.protocol.count_void
    found["protocol.search"] = search_name(card.protocol.search)
    for name, row in card.attacks.items():
        found |= {f"attacks.{name}.{key}": value for key, value in settings_of(row.settings).items()}
    return found


def leaderboard_html(leaderboard: Leaderboard) -> str:
    """Write the tables as a self-contained HTML page."""
    tables = [
        {"heading": found.heading, "below": found.below, "drawn": to_html(table_of(found), "leaderboard cards")}
        for found in leaderboard.tables
    ]
    return render("leaderboard.html.j2", tables=tables, explanation=EXPLANATION)


def leaderboard_markdown(leaderboard: Leaderboard) -> str:
    """Write the tables as Markdown."""
    parts = ["# Leaderboard", EXPLANATION]
    for found in leaderboard.tables:
        parts += [f"## {escape(found.heading)}", escape(found.below), to_markdown(table_of(found))]
    return "\n\n".join(parts) + "\n"


def leaderboard_csv(leaderboard: Leaderboard) -> str:
    """Write all tables as one CSV table; its first columns describe the protocol."""
    tables = [table_of(found) for found in leaderboard.tables]
    rows = [
        row._replace(cells=[Text(found.heading, found.below), *row.cells])
        for found, table in zip(leaderboard.tables, tables, strict=True)
        for row in table.rows
    ]
    return to_csv(Table([words("protocol"), *tables[0].columns], [Section(rows)]))


def leaderboard_latex(leaderboard: Leaderboard) -> str:
    """Write the tables in LaTeX, one after the other."""
    return "\n".join(to_latex(table_of(found)) for found in leaderboard.tables)


def table_of(found: LeaderboardTable) -> Table:
    """Build a table of the ranked models, followed by the others."""
    ranked = [_row(entry) for entry in found.entries if entry.rank is not None]
    apart = [_row(entry) for entry in found.entries if entry.rank is None]
    figures = [Column(heading, "%" if "_" in key else "") for key, heading in COLUMNS.items()]
    return Table(
        [Column("rank", align="left"), words("model"), *figures],
        [Section(ranked), *([Section(apart, "Not ranked")] if apart else [])],
        found.heading,
        notes=[found.below],
        shows_units=False,
    )


def _row(entry: Entry) -> Row:
    rank: Cell = Text(NOTHING, kind="rank") if entry.rank is None else Number(entry.rank, 0, kind="rank")
    verdict = Verdict(view.SYMBOLS[entry.verdict], entry.verdict, entry.reason)
    figures = [entry.cells[key] for key in COLUMNS if key != "verdict"]
    kind = "entry unranked" if entry.rank is None else "entry ranked"
    return Row([rank, Text(entry.model, entry.below, entry.name), *figures, verdict], kind)


def _refusal(protocols: Mapping[str, Mapping[str, Any]]) -> str:
    """Describe the differences between protocols, key by key, with the value of each card."""
    keys = list(dict.fromkeys(key for facts in protocols.values() for key in facts))
    lines = []
    for key in keys:
        values = {name: _value(facts.get(key, _MISSING)) for name, facts in protocols.items()}
        if len({json.dumps(facts.get(key, _MISSING)) for facts in protocols.values()}) > 1:
            lines.append(f"  {key}: " + "; ".join(f"{name}: {value}" for name, value in values.items()))
    hidden = len(lines) - _SHOWN_DIFFERENCES
    more = [f"  … and {hidden} more keys"] if hidden > 0 else []
    return "\n".join(
        [
            "these results were not measured alike, so that their figures cannot be compared:",
            *lines[:_SHOWN_DIFFERENCES],
            *more,
            "Evaluate them alike, or ask for one table per protocol (--group).",
        ]
    )


def _value(value: Any) -> str:
    return shorten(value if isinstance(value, str) else json.dumps(value), _VALUE_LENGTH)


def _refuse_duplicates(cards: Mapping[str, Card]) -> None:
    """Refuse the same model twice; a checkpoint may appear with other weights (raw, EMA) or another window.

    Raises:
        ReportError: A model appears twice.
    """
    seen: dict[str, str] = {}
    for name, card in cards.items():
        model = card.model
        identity = json.dumps([model.sha256, model.weights, model.window], sort_keys=True)
        if identity in seen:
            raise ReportError(
                f"{seen[identity]} and {name} are results of the same checkpoint (sha256 {sha(model.sha256)}…): "
                "leave one of them out."
            )
        seen[identity] = name


def _table(cards: Mapping[str, Card]) -> LeaderboardTable:
    entries = [_entry(name, card) for name, card in cards.items()]
    ranked = sorted((entry for entry in entries if not entry.reason), key=_order)
    apart = sorted((entry for entry in entries if entry.reason), key=_order)
    placed: list[Entry] = []
    for place, entry in enumerate(ranked, start=1):
        above = placed[-1] if placed else None
        tied = above is not None and _figure(above) == _figure(entry)
        placed.append(entry._replace(rank=above.rank if above is not None and tied else place))
    first = next(iter(cards.values()))
    data = first.data
    suites = sorted({plain(card.protocol.suite or "no suite") for card in cards.values()})
    heading = f"{plain(data.name)} {plain(data.split)}, {threat(first.protocol)}"
    heading += "" if first.protocol.targets == "labels" else ", against each model's own clean predictions"
    resolution = "×".join(str(side) for side in data.image_size) if data.image_size else "size of the files"
    below = (
        f"{data.images} of {data.split_images} images, {resolution}; suite {', '.join(suites)}: "
        f"{', '.join(plain(name) for name in first.attacks) or 'no attack'}; seed {first.protocol.seed}, "
        f"{plain(first.protocol.precision)}{_search(first)}; data sha256 {sha(data.sha256)}…{_noise(cards)}"
    )
    return LeaderboardTable(heading, below, (*placed, *apart))


def _noise(cards: Mapping[str, Card]) -> str:
    """Name the cards of each version of the noise, if there are several: one seed gives them other numbers."""
    versions = sorted({card.protocol.noise for card in cards.values()})
    names = [", ".join(plain(name) for name, card in cards.items() if card.protocol.noise == each) for each in versions]
    parts = [f"of version {version} in {shown}" for version, shown in zip(versions, names, strict=True)]
    return f"; noise {' and '.join(parts)}, other numbers for the same seed" if len(parts) > 1 else ""


def _search(card: Card) -> str:
    search = card.protocol.search
    return "" if search is None else f", searched in {search_name(search)}"


def _entry(name: str, card: Card) -> Entry:
    worst = worst_case(card)
    failed = [plain(attack) for attack, row in card.attacks.items() if row.error is not None]
    if card.verdict == "unreliable":
        bad = ", ".join(f"{flag.number} {plain(flag.name)}" for flag in card.flags if flag.verdict == "unreliable")
        reason = f"a check failed ({bad})" if bad else "a check failed"
    elif failed:
        reason = f"could not run: {', '.join(failed)}"
    elif worst["worst_pixel_acc"] == MISSING:
        reason = "no worst case in the card"
    else:
        reason = ""
    total = len(card.attacks)
    against = "" if card.protocol.targets == "labels" else ", against own predictions"
    cells: dict[str, Cell] = {
        **worst,
        **{f"clean_{key}": _score(card.clean, key) for key in keys_in("leaderboard")},
        "attacks": Text((f"{total - len(failed)} of {total}" if failed else str(total)) + against),
    }
    model = card.model
    file = "no checkpoint" if model.checkpoint is None else f"{plain(model.checkpoint)} {sha(model.sha256)}…"
    below = f"trained with {training(card)}; {file}"
    if model.weights != "raw":
        below += f", {plain(model.weights)} weights"
    if model.window:
        below += ", sliding window"
    return Entry(None, plain(name), model_name(card), below, cells, card.verdict, reason)


def worst_case(card: Card) -> dict[str, Cell]:
    """Return the figures of the worst case, or of a card's only attack, by key."""
    kinds: dict[str, Figured] = {} if card.worst_case is None else dict(card.worst_case.kinds())
    if not kinds and len(card.ran) == 1:
        kinds = dict.fromkeys(("per_image", "greedy"), next(iter(card.ran.values())))
    # The greedy worst case is made for miou, the one per image is used for all other figures.
    of = {key: kinds.get("greedy" if key == "miou" else "per_image") for key in keys_in("leaderboard")}
    return {f"worst_{key}": _score(row, key) for key, row in of.items()}


def _score(row: Figured | None, key: str) -> Cell:
    return MISSING if row is None else figure(row[key], DIGITS, 100, row.interval(key))


def _figure(entry: Entry) -> float:
    """Return the displayed figure that decides the rank; a value below all others if there is none."""
    return _shown(entry, "worst_pixel_acc")


def _order(entry: Entry) -> tuple[float, float, str]:
    return -_figure(entry), -_shown(entry, "worst_miou"), entry.name


def _shown(entry: Entry, key: str) -> float:
    text = entry.cells[key].text
    return -1.0 if text == NOTHING else float(text)
