"""Result cards as they are read: what a report and a leaderboard may rely on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustseg.evaluation.figures import SCORES
from robustseg.evaluation.report.errors import ReportError

Card = Mapping[str, Any]
"""One evaluation: model, data, protocol, scores, flags and versions, as ``card.json`` holds them."""

CARD = "card.json"
FORMAT = 1
VERDICTS = ("ok", "caution", "unreliable")
FLAG_VERDICTS = (*VERDICTS, "not checked")

_AGAIN = "evaluate the checkpoint again to get a complete card."
_REQUIRED: Mapping[str, tuple[type, ...]] = {
    "model": (Mapping,),
    "model.network": (str,),
    "model.settings": (Mapping,),
    "model.checkpoint": (str,),
    "model.sha256": (str,),
    "model.weights": (str,),
    "data": (Mapping,),
    "data.name": (str,),
    "data.split": (str,),
    "data.images": (int,),
    "data.split_images": (int,),
    "data.sha256": (str,),
    "data.class_names": (list, tuple),
    "data.ignore_index": (int,),
    "protocol": (Mapping,),
    "protocol.seed": (int,),
    "protocol.precision": (str,),
    "clean": (Mapping,),
    "attacks": (Mapping,),
    "flags": (list, tuple),
    "verdict": (str,),
    "versions": (Mapping,),
}
_KINDS = {Mapping: "an object", str: "a string", int: "an integer", list: "a list"}


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check a result card.

    Args:
        path: A ``card.json``, or the folder of an evaluation that holds one.

    Raises:
        ReportError: There is none, or it is not a card of this format; the message names the file and the key.
    """
    file = Path(path)
    if file.is_dir():
        file = file / CARD
    try:
        # Other programs write NaN for figures that do not exist.
        card = json.loads(file.read_text(encoding="utf-8"), parse_constant=lambda text: None if text == "NaN" else text)
    except FileNotFoundError:
        raise ReportError(f"{file}: no such file: name the folder of a finished evaluation.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReportError(f"{file} is not valid JSON ({error}): {_AGAIN}") from None
    except OSError as error:
        raise ReportError(f"{file}: cannot be read ({error.strerror or error}).") from error
    check_card(card, str(file))
    return dict(card)


def read_cards(paths: Sequence[str | os.PathLike[str]]) -> dict[str, dict[str, Any]]:
    """Cards of several evaluations by short names: the end of each folder's path that tells them apart.

    Args:
        paths: Folders or card files, each once.

    Raises:
        ReportError: None given, one given twice, or a card that cannot be read.
    """
    if not paths:
        raise ReportError("no folder given: name the folder of at least one finished evaluation.")
    folders: list[Path] = []
    for path in paths:
        resolved = Path(path).resolve()
        folder = resolved.parent if resolved.name == CARD else resolved
        if folder in folders:
            raise ReportError(f"{path} is named twice: leave one out.")
        folders.append(folder)
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < len(folders):
        depth += 1
    return {"/".join(folder.parts[-depth:]): read_card(path) for folder, path in zip(folders, paths, strict=True)}


def check_card(card: Any, source: str = "card") -> None:
    """Refuse what is no card of this format.

    Args:
        card: What was read.
        source: Where it comes from, for the message.

    Raises:
        ReportError: Another format, a missing key, or a value that cannot be one.
    """
    if not isinstance(card, Mapping) or "format" not in card:
        raise ReportError(f"{source} is no result card (it has no key format): name the {CARD} of an evaluation.")
    if card["format"] != FORMAT:
        raise ReportError(
            f"{source}: format = {card['format']!r}, but this version of robustseg reads format {FORMAT}: use the "
            "version that wrote it, or evaluate again."
        )
    for key, kinds in _REQUIRED.items():
        value: Any = card
        for part in key.split("."):
            if part not in value:
                raise ReportError(f"{source}: key {key} is missing: {_AGAIN}")
            value = value[part]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ReportError(f"{source}: {key} = {value!r} is not {_KINDS[kinds[0]]}: {_AGAIN}")
    if card["verdict"] not in VERDICTS:
        raise ReportError(f"{source}: verdict = {card['verdict']!r}: must be one of {', '.join(VERDICTS)}.")
    names = card["data"]["class_names"]
    _check_scores(card["clean"], names, f"{source}: clean")
    for name, row in card["attacks"].items():
        _check_attack(row, names, f"{source}: attacks.{name}")
    for kind, row in (card.get("worst_case") or {}).items():
        if kind not in ("per_image", "greedy") or not isinstance(row, Mapping):
            raise ReportError(f"{source}: worst_case.{kind} is not one of per_image and greedy: {_AGAIN}")
        _check_figures(row, f"{source}: worst_case.{kind}", ("pixel_acc", "miou"))
    for name, found in (card.get("detectors") or {}).items():
        _check_detector(found, f"{source}: detectors.{name}")
    for place, flag in enumerate(card["flags"]):
        _check_flag(flag, f"{source}: flags[{place}]")


def _check_attack(row: Any, class_names: Sequence[str], where: str) -> None:
    if not isinstance(row, Mapping) or not isinstance(row.get("settings"), Mapping):
        raise ReportError(f"{where}.settings is missing: {_AGAIN}")
    if row.get("error") is None:
        _check_scores(row, class_names, where)


def _check_detector(found: Any, where: str) -> None:
    for key in ("settings", "threshold", "clean", "attacks"):
        if not isinstance(found, Mapping) or not isinstance(found.get(key), Mapping):
            raise ReportError(f"{where}.{key} is missing: {_AGAIN}")
    _check_figures(found["threshold"], f"{where}.threshold", ("value", "false_positive_rate"))
    if not isinstance(found["threshold"].get("images"), int):
        raise ReportError(f"{where}.threshold.images is missing: {_AGAIN}")
    for name, row in {"clean": found["clean"], **found["attacks"]}.items():
        at = f"{where}.{name}"
        if isinstance(row, Mapping) and row.get("error") is not None:
            continue
        for part in ("accepted", "with_rejection"):
            if not isinstance(row, Mapping) or not isinstance(row.get(part), Mapping):
                raise ReportError(f"{at}.{part} is missing: {_AGAIN}")
        _check_figures(row, at, ("rejected",) if name == "clean" else ("rejected", "auc"))
        _check_figures(row["accepted"], f"{at}.accepted", ("pixel_acc", "miou"))
        _check_figures(row["with_rejection"], f"{at}.with_rejection", ("pixel_acc",))


def _check_scores(row: Mapping[str, Any], class_names: Sequence[str], where: str) -> None:
    _check_figures(row, where, SCORES)
    found = row.get("class_iou")
    if not isinstance(found, Mapping) or set(found) != set(class_names):
        raise ReportError(f"{where}.class_iou does not have the classes of data.class_names: {_AGAIN}")
    _check_figures(found, f"{where}.class_iou", tuple(class_names))


def _check_figures(row: Mapping[str, Any], where: str, keys: Sequence[str]) -> None:
    for key in keys:
        if key not in row:
            raise ReportError(f"{where}.{key} is missing: {_AGAIN}")
        figure = row[key]
        if figure is None or (isinstance(figure, float) and math.isnan(figure)):
            continue
        if isinstance(figure, bool) or not isinstance(figure, (int, float)) or not 0 <= figure <= 1:
            raise ReportError(f"{where}.{key} = {figure!r} is not a share between 0 and 1: {_AGAIN}")


def _check_flag(flag: Any, where: str) -> None:
    for key in ("number", "name", "verdict", "line"):
        if not isinstance(flag, Mapping) or key not in flag:
            raise ReportError(f"{where}.{key} is missing: {_AGAIN}")
    if flag["verdict"] not in FLAG_VERDICTS:
        raise ReportError(f"{where}.verdict = {flag['verdict']!r}: must be one of {', '.join(FLAG_VERDICTS)}.")
