"""What a report says, apart from how it looks: one arrangement of a card for HTML and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from robustseg.evaluation.figures import SCORES, Figure, keys_in, shown_in
from robustseg.evaluation.report.cards import Card
from robustseg.evaluation.report.wording import (
    NOTHING,
    attack_summary,
    count,
    evidence,
    fraction,
    model_name,
    number,
    percent,
    plain,
    points,
    setting,
    sha,
    size,
    span,
    threat,
    training,
)

_REPORTED = shown_in("report")
COLUMNS = {
    **{figure.key: figure.heading for figure in _REPORTED if figure.of != "attack"},
    **{f"gap_{figure.key}": f"gap {figure.heading}" for figure in shown_in("report gap")},
    **{figure.key: figure.heading for figure in _REPORTED if figure.of == "attack"},
    "budget": "largest δ",
}
"""Of the main table, with their headings."""

VERDICT_LINES = {
    "ok": "No check found a reason to doubt these figures.",
    "caution": "The evidence is weaker than it could be: read the checks marked caution before quoting the figures.",
    "unreliable": "A check failed: the robustness figures are likely too high or wrong. Do not quote them.",
}
SYMBOLS = {"ok": "✓", "caution": "!", "unreliable": "✕", "not checked": "?"}
"""Beside the colour and the word of a verdict."""

_PER_IMAGE = "worst case per image"
_GREEDY = "worst case for miou (greedy)"


class Cell(NamedTuple):
    """A figure and what stands below it in small letters."""

    text: str
    below: str = ""
    lowest: bool = False
    """The lowest of its column, under a single attack."""


class Row(NamedTuple):
    """One line of the main table."""

    name: str
    kind: str
    """clean, attack or worst."""
    below: str
    """In small letters under the name."""
    cells: Mapping[str, Cell]
    error: str = ""
    """Why the attack could not run."""


class Flag(NamedTuple):
    """One of the checks."""

    number: str
    name: str
    verdict: str
    line: str
    evidence: str
    """Indented JSON; empty where there is none."""


class Tile(NamedTuple):
    """A headline figure."""

    label: str
    clean: str
    robust: str
    below: str


def title(card: Card) -> str:
    """``PSPNet (resnet10t) on CamVid val``."""
    data = card["data"]
    return f"{model_name(card)} on {plain(data['name'])} {plain(data['split'])}"


def facts(card: Card) -> dict[str, str]:
    """What was measured, and how."""
    model, data, protocol = card["model"], card["data"], card["protocol"]
    versions = ", ".join(f"{plain(name)} {plain(value)}" for name, value in card["versions"].items())
    resolution = data.get("image_size")
    return {
        "Model": model_name(card),
        "Checkpoint": f"{plain(model['checkpoint'])}, {_weights(model)}, {_checksum(model)}",
        "Trained with": training(card),
        "Inference": "whole image" if not model.get("window") else f"sliding window {setting(model['window'])}",
        "Data": f"{plain(data['name'])} {plain(data['split'])}, {_checksum(data)}",
        "Images": _images(data),
        "Image size": "as in the files" if not resolution else "×".join(str(side) for side in resolution),
        "Ignored label": str(data["ignore_index"]),
        "Threat": threat(protocol),
        "Suite": plain(protocol.get("suite") or "none, attacks chosen one by one"),
        "Precision, seed": f"{plain(protocol['precision'])}, {protocol['seed']}",
        "Versions": versions,
        "Commit": plain(card.get("commit") or "unknown"),
    }


def _weights(model: Mapping[str, Any]) -> str:
    origin = f" of {plain(model['layout'])}" if model.get("layout") else ""
    return f"{plain(model['weights'])} weights{origin}"


def _checksum(part: Mapping[str, Any]) -> str:
    return f"sha256 {sha(part['sha256'])}…"


def _images(data: Mapping[str, Any]) -> str:
    scored, whole = data["images"], data["split_images"]
    if scored == whole:
        return f"all {whole} of the split"
    return f"{scored} of the split's {whole}" + (", ids in the card" if data.get("ids") else "")


def checks_summary(card: Card) -> str:
    """How many checks ended how: ``7 of 10 checks ok, 2 caution, 1 not checked``."""
    flags = card["flags"]
    if not flags:
        return "No check was run."
    counts = {verdict: sum(flag["verdict"] == verdict for flag in flags) for verdict in SYMBOLS}
    others = "".join(f", {counts[verdict]} {verdict}" for verdict in list(SYMBOLS)[1:] if counts[verdict])
    return f"{counts['ok']} of {len(flags)} checks ok{others}."


def tiles(card: Card) -> list[Tile]:
    """The two figures to quote: from clean to the worst case."""
    clean, worst = card["clean"], card.get("worst_case") or {}
    found = []
    for key, kind, below in (("pixel_acc", "per_image", _PER_IMAGE), ("miou", "greedy", _GREEDY)):
        row = worst.get(kind)
        if row is None:
            row, below = _weakest(card, key)
        if row is not None:
            found.append(Tile(key, percent(clean[key], 1), percent(row[key], 1), below))
    return found


def _weakest(card: Card, key: str) -> tuple[Mapping[str, Any] | None, str]:
    """The attack under which a figure is lowest, for cards without a worst case."""
    ran = [(row[key], name) for name, row in attacks(card).items() if number(row[key]) is not None]
    if not ran:
        return None, ""
    name = min(ran)[1]
    return card["attacks"][name], plain(name)


def attacks(card: Card) -> dict[str, Mapping[str, Any]]:
    """The attacks that ran, in the card's order."""
    return {name: row for name, row in card["attacks"].items() if row.get("error") is None}


def rows(card: Card) -> list[Row]:
    """The main table: clean, each attack, the worst cases."""
    lowest = {
        key: min((f for row in attacks(card).values() if (f := number(row[key])) is not None), default=None)
        for key in SCORES
    }
    found = [Row("clean", "clean", "no attack", _scores(card["clean"]))]
    for name, row in card["attacks"].items():
        below = attack_summary(row["settings"])
        if row.get("error") is not None:
            found.append(Row(plain(name), "attack", below, {}, plain(row["error"])))
            continue
        cells = _scores(row)
        for key, cell in cells.items():
            if key in lowest and number(row[key]) is not None and number(row[key]) == lowest[key]:
                cells[key] = cell._replace(lowest=True)
        gap = row.get("gap") or {}
        cells |= {f"gap_{key}": Cell(points(gap.get(key))) for key in keys_in("report gap")}
        cells |= {f.key: Cell(_reported(row.get(f.key), f)) for f in _REPORTED if f.of == "attack"}
        cells["budget"] = _budget(row, card["protocol"])
        found.append(Row(plain(name), "attack", below, cells))
    return [*found, *_worst_rows(card)]


def _worst_rows(card: Card) -> Iterator[Row]:
    worst = card.get("worst_case") or {}
    about = {
        "per_image": (_PER_IMAGE, "each image under the attack that leaves the fewest correct pixels"),
        "greedy": (_GREEDY, "one attack per image, chosen to lower the miou of all images together"),
    }
    for kind, (name, below) in about.items():
        if kind in worst:
            cells = _scores(worst[kind])
            for key in keys_in("report gap"):
                clean, robust = number(card["clean"][key]), number(worst[kind][key])
                cells[f"gap_{key}"] = Cell(points(None if clean is None or robust is None else clean - robust))
            yield Row(name, "worst", below, cells)


def _scores(row: Mapping[str, Any]) -> dict[str, Cell]:
    confidence = row.get("confidence") or {}
    return {key: Cell(percent(row.get(key)), span(confidence.get(key))) for key in SCORES if key in row}


def _budget(row: Mapping[str, Any], protocol: Mapping[str, Any]) -> Cell:
    """The largest perturbation in the attack's own norm, and its share of eps."""
    settings = row["settings"]
    norm = settings.get("norm") or protocol.get("norm") or "linf"
    largest = number(row.get(f"{norm}_max"))
    eps = fraction(settings.get("eps"))
    share = "" if largest is None or not eps else f"{100 * largest / float(eps):.1f} % of eps"
    return Cell(size(largest, norm), share if eps is not None else "no bound")


def size_table(card: Card) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Headings, and per attack the sizes of perturbations and what they reached; empty columns are left out."""
    ran = attacks(card)
    present = [f for f in shown_in("sizes") if any(number(row.get(f.key)) is not None for row in ran.values())]
    return [f.heading for f in present], [
        (plain(name), [_size_cell(row.get(f.key), f) for f in present]) for name, row in ran.items()
    ]


def _size_cell(value: Any, figure: Figure) -> str:
    if figure.unit == "share":
        return NOTHING if number(value) is None else f"{percent(value, figure.digits)} %"
    return _reported(value, figure)


def _reported(value: Any, figure: Figure) -> str:
    """A figure in its unit."""
    if figure.unit == "share":
        return percent(value)
    return size(value, figure.unit) if figure.unit in ("linf", "l2") else count(value)


def class_table(card: Card) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Headings, and the IoU of each class: clean, under each attack, and in the worst case per image."""
    columns = {"clean": card["clean"], **attacks(card)}
    worst = (card.get("worst_case") or {}).get("per_image") or {}
    if worst.get("class_iou"):
        columns[_PER_IMAGE] = worst
    names = card["data"]["class_names"]
    table = [(plain(n), [percent(row["class_iou"].get(n), 1) for row in columns.values()]) for n in names]
    return [plain(column) for column in columns], table


def settings(card: Card) -> list[tuple[str, str, dict[str, str]]]:
    """Of each attack its name, the attack in a few words, and every hyperparameter."""
    return [
        (plain(name), attack_summary(row["settings"]), {plain(k): setting(v) for k, v in row["settings"].items()})
        for name, row in card["attacks"].items()
    ]


def model_settings(card: Card) -> dict[str, str]:
    """Everything that says which model and data exactly."""
    model, data, protocol = card["model"], card["data"], card["protocol"]
    found = {f"network.{plain(key)}": setting(value) for key, value in model["settings"].items()}
    found |= {key: setting(model.get(key)) for key in ("mean", "std", "window", "trained_with")}
    found |= {"checkpoint sha256": plain(model["sha256"]), "data sha256": plain(data["sha256"])}
    found |= {"batch sizes": setting(protocol.get("batch_sizes"))}
    return found | ({"ids": ", ".join(plain(name) for name in data["ids"])} if data.get("ids") else {})


def flags(card: Card) -> list[Flag]:
    """The checks in their order."""
    return [
        Flag(
            str(flag["number"]),
            plain(flag["name"]),
            flag["verdict"],
            plain(flag["line"]),
            evidence(flag["evidence"]) if flag.get("evidence") else "",
        )
        for flag in card["flags"]
    ]
