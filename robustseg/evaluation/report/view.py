"""The content of a report, independent of its format: a card, arranged for HTML and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from robustseg.evaluation.card import UNKNOWN, AttackRow, Card, DataFacts, Figured, Flag, ModelFacts, Protocol, Scores
from robustseg.evaluation.figures import IN_8BIT, SCORES, Figure, keys_in, shown_in
from robustseg.evaluation.report.wording import (
    NOTHING,
    attack_summary,
    count,
    evidence,
    fraction,
    model_name,
    percent,
    plain,
    points,
    searched,
    setting,
    settings_of,
    sha,
    size,
    span,
    threat,
    training,
)
from robustseg.evaluation.table import Text
from robustseg.evaluation.targets import BY_CONSTRUCTION, OWN

_REPORTED = shown_in("report")
COLUMNS = {
    **{figure.key: figure.heading for figure in _REPORTED if figure.of != "attack"},
    **{f"gap_{figure.key}": f"gap {figure.heading}" for figure in shown_in("report gap")},
    **{figure.key: figure.heading for figure in _REPORTED if figure.of == "attack"},
    "budget": "largest δ",
}
"""Columns of the main table, with their headings."""
_STORED = [figure for figure in _REPORTED if figure.key in IN_8BIT.values()]

VERDICT_LINES = {
    "ok": "No check found a reason to doubt these figures.",
    "caution": "The evidence is weaker than it could be: read the checks marked caution before quoting the figures.",
    "unreliable": "A check failed: the robustness figures are likely too high or wrong. Do not quote them.",
}
SYMBOLS = {"ok": "✓", "caution": "!", "unreliable": "✕", "not checked": "?"}
"""Symbol of each verdict."""

_PER_IMAGE = "worst case per image"
_GREEDY = "worst case for miou (greedy)"


class Row(NamedTuple):
    """A row of the main table."""

    name: str
    kind: str
    """Kind of the row: clean, attack or worst."""
    below: str
    """Small text below the name."""
    cells: Mapping[str, Text]
    error: str = ""
    """Reason why the attack could not run; empty otherwise."""


class Tile(NamedTuple):
    """A headline figure."""

    label: str
    clean: str
    robust: str
    below: str


def title(card: Card) -> str:
    """Name the model and the data: ``PSPNet (resnet10t) on CamVid val``."""
    against = "" if card.protocol.targets == "labels" else f" against {OWN}"
    return f"{model_name(card)} on {plain(card.data.name)} {plain(card.data.split)}{against}"


def facts(card: Card) -> dict[str, str]:
    """Describe the model, the data and the protocol, by heading."""
    model, data, protocol = card.model, card.data, card.protocol
    versions = " / ".join(
        ", ".join(f"{plain(name)} {plain(value)}" for name, value in each.items()) for each in card.versions_list
    )
    missing = card.clean.no_confidence
    return {
        "Model": model_name(card),
        "Checkpoint": _checkpoint(model),
        "Trained with": training(card),
        "Inference": "whole image" if not model.window else f"sliding window {setting(model.window)}",
        "Data": f"{plain(data.name)} {plain(data.split)}, sha256 {sha(data.sha256)}…",
        "Images": _images(data),
        **({} if missing is None else {"Intervals": f"none, {plain(missing)}"}),
        "Image size": "as in the files" if not data.image_size else "×".join(str(side) for side in data.image_size),
        "Targets": "labels of the data" if protocol.targets == "labels" else f"{OWN}, no labels",
        "Ignored label": _ignored(data, protocol),
        "Threat": threat(protocol),
        "Suite": plain(protocol.suite or "none, attacks chosen one by one"),
        "Precision, seed": f"{plain(protocol.precision)}, {protocol.seed}",
        "Noise": f"version {protocol.noise}",
        **({} if protocol.search is None else {"Search": searched(protocol.search)}),
        "Versions": versions,
        "Commit": plain(card.commit or UNKNOWN),
    }


def _ignored(data: DataFacts, protocol: Protocol) -> str:
    if protocol.targets != "labels":
        return "none, every pixel counts"
    return f"{data.ignore_index}" + (", counted as void, a class without figures" if protocol.count_void else "")


def _checkpoint(model: ModelFacts) -> str:
    if model.checkpoint is None or model.sha256 is None:
        return "none"
    origin = f" of {plain(model.layout)}" if model.layout else ""
    return f"{plain(model.checkpoint)}, {plain(model.weights)} weights{origin}, sha256 {sha(model.sha256)}…"


def _images(data: DataFacts) -> str:
    if data.images == data.split_images:
        return f"all {data.split_images} of the split"
    return f"{data.images} of the split's {data.split_images}" + (", ids in the card" if data.ids else "")


def checks_summary(card: Card) -> str:
    """Count the checks by verdict: ``7 of 10 checks ok, 2 caution, 1 not checked``."""
    flags = card.flags
    if not flags:
        return "No check was run."
    counts = {verdict: sum(flag.verdict == verdict for flag in flags) for verdict in SYMBOLS}
    others = "".join(f", {counts[verdict]} {verdict}" for verdict in list(SYMBOLS)[1:] if counts[verdict])
    return f"{counts['ok']} of {len(flags)} checks ok{others}."


def tiles(card: Card) -> list[Tile]:
    """Return the two headline figures: from clean to the worst case."""
    worst: dict[str, Figured] = {} if card.worst_case is None else dict(card.worst_case.kinds())
    found = []
    for key, kind, below in (("pixel_acc", "per_image", _PER_IMAGE), ("miou", "greedy", _GREEDY)):
        row: Figured | None = worst.get(kind)
        if row is None:
            row, below = _weakest(card, key)
        if row is not None:
            found.append(Tile(key, percent(card.clean[key], 1), percent(row[key], 1), below))
    return found


def _weakest(card: Card, key: str) -> tuple[Figured | None, str]:
    """Return the attack with the lowest figure, for cards without a worst case; None if there is no figure."""
    ran = [(figure, name) for name, row in card.ran.items() if (figure := row[key]) is not None]
    if not ran:
        return None, ""
    name = min(ran)[1]
    return card.attacks[name], plain(name)


STORED = (
    "miou, 8 bit: of the adversarial images rounded to 8 bit, as a saved PNG has them; other figures are of the images "
    "as they are. Rounding may take an image out of its budget by up to half a grey level; it is not projected again."
)
"""Explanation of the figures of rounded images."""


def notes(card: Card) -> list[str]:
    """Return what a reader of the main table has to know about this card's figures."""
    own = [BY_CONSTRUCTION] if card.protocol.targets != "labels" else []
    return own + [STORED] * any(figure.key in columns(card) for figure in _STORED)


def columns(card: Card) -> dict[str, str]:
    """Return the columns of the main table; cards of version 0.1 have no figures of rounded images."""
    blank = {f.key for f in _STORED if all(row[f.key] is None for row in card.ran.values())}
    return {key: heading for key, heading in COLUMNS.items() if key not in blank}


def rows(card: Card) -> list[Row]:
    """Return the rows of the main table: clean, each attack, the worst cases."""
    lowest = {key: min((f for row in card.ran.values() if (f := row[key]) is not None), default=None) for key in SCORES}
    no_attack = "no attack" if card.protocol.targets == "labels" else "no attack: 100 by construction"
    found = [Row("clean", "clean", no_attack, _scores(card.clean))]
    for name, row in card.attacks.items():
        below = attack_summary(row.settings)
        if row.error is not None:
            found.append(Row(plain(name), "attack", below, {}, plain(row.error)))
            continue
        cells = _scores(row)
        for key, cell in cells.items():
            if key in lowest and row[key] is not None and row[key] == lowest[key]:
                cells[key] = replace(cell, kind="lowest")
        cells |= {f"gap_{key}": Text(points(row.gap.get(key))) for key in keys_in("report gap")}
        cells |= {f.key: Text(_reported(row[f.key], f)) for f in _REPORTED if f.of == "attack"}
        cells["budget"] = _budget(row, card.protocol)
        found.append(Row(plain(name), "attack", below, cells))
    return [*found, *_worst_rows(card)]


def _worst_rows(card: Card) -> Iterator[Row]:
    about = {
        "per_image": (_PER_IMAGE, "each image under the attack that leaves the fewest correct pixels"),
        "greedy": (_GREEDY, "one attack per image, chosen to lower the miou of all images together"),
    }
    for kind, row in card.worst_case.kinds() if card.worst_case is not None else ():
        cells = _scores(row) | {f.key: Text(percent(row[f.key])) for f in _STORED}
        for key in keys_in("report gap"):
            clean, robust = card.clean[key], row[key]
            cells[f"gap_{key}"] = Text(points(None if clean is None or robust is None else clean - robust))
        yield Row(about[kind][0], "worst", about[kind][1], cells)


def _scores(row: Figured) -> dict[str, Text]:
    """Make a cell of each score, with its interval below."""
    return {key: Text(percent(row[key]), span(row.interval(key))) for key in SCORES if row.has(key)}


def _budget(row: AttackRow, protocol: Protocol) -> Text:
    """Make a cell of the largest perturbation in the attack's own norm, with its share of eps."""
    norm = row.settings.norm or protocol.norm or "linf"
    largest, eps = row[f"{norm}_max"], fraction(row.settings.eps)
    share = "" if largest is None or not eps else f"{100 * largest / float(eps):.1f} % of eps"
    return Text(size(largest, norm), share if eps is not None else "no bound")


def size_table(card: Card) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return headings and, per attack, the sizes and success of perturbations; empty columns are left out."""
    ran = card.ran
    present = [f for f in shown_in("sizes") if any(row[f.key] is not None for row in ran.values())]
    return [f.heading for f in present], [
        (plain(name), [_size_cell(row[f.key], f) for f in present]) for name, row in ran.items()
    ]


def _size_cell(value: float | None, figure: Figure) -> str:
    if figure.unit == "share":
        return NOTHING if value is None else f"{percent(value, figure.digits)} %"
    return _reported(value, figure)


def _reported(value: float | None, figure: Figure) -> str:
    """Write a figure in its displayed unit."""
    if figure.unit == "share":
        return percent(value)
    return size(value, figure.unit) if figure.unit in ("linf", "l2") else count(value)


def class_table(card: Card) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return headings and the IoU of each class: clean, under each attack, and in the worst case per image."""
    columns: dict[str, Scores] = {"clean": card.clean, **card.ran}
    worst = None if card.worst_case is None else card.worst_case.per_image
    if worst is not None and worst.class_iou:
        columns[_PER_IMAGE] = worst
    names = card.data.class_names
    table = [(plain(n), [percent(row.class_iou.get(n), 1) for row in columns.values()]) for n in names]
    return [plain(column) for column in columns], table


def settings(card: Card) -> list[tuple[str, str, dict[str, str]]]:
    """Return each attack's name, a short description, and all hyperparameters."""
    return [
        (
            plain(name),
            attack_summary(row.settings),
            {plain(key): setting(value) for key, value in settings_of(row.settings).items()},
        )
        for name, row in card.attacks.items()
    ]


def model_settings(card: Card) -> dict[str, str]:
    """Return everything that identifies the model and the data."""
    model, data = card.model, card.data
    plain_model = model.as_dict()
    found = {f"network.{plain(key)}": setting(value) for key, value in model.settings.items()}
    found |= {key: setting(plain_model.get(key)) for key in ("mean", "std", "window", "trained_with")}
    found |= {"checkpoint sha256": plain(model.sha256 or "none"), "data sha256": plain(data.sha256)}
    found |= {"batch sizes": setting(card.protocol.batch_sizes)}
    found |= {key: setting(value) for key, value in (model.outputs or {}).items()}
    return found | ({"ids": ", ".join(plain(name) for name in data.ids)} if data.ids else {})


def flags(card: Card) -> list[Flag]:
    """Return the checks in their order, with evidence as indented JSON; it is empty if there is none."""
    return [
        Flag(
            number=flag.number,
            name=plain(flag.name),
            verdict=flag.verdict,
            line=plain(flag.line),
            evidence=evidence(flag.evidence) if flag.evidence else "",
        )
        for flag in card.flags
    ]
