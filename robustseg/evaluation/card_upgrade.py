"""Conversion of cards and attack descriptions of version 0.1 to the current format."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from robustseg.attacks.describe import CLASS
from robustseg.metrics.bootstrap import FEWEST_IMAGES, too_few

_PARTS = ("loss", "step_rule", "transform", "watched", "target_map")
"""Settings that version 0.1 wrote as the representation of an object."""
_POSITIONAL = {"Chain": "transforms", "TranslationInvariantStep": "inner"}
"""Name of the positional argument in representations, by class."""
_LISTS = ("layers", "weights", "scale_range")
"""Settings that version 0.1 wrote as numbers or names separated by commas."""
_DEEPEST = 8
"""Largest depth of attacks within attacks; deeper ones keep their flat names."""
_LONGEST = 2000
"""Largest number of characters of a representation that is parsed."""


def upgrade_settings(settings: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Convert the description of an attack to nested data; one that is nested already stays unchanged.

    Version 0.1 wrote ``{"loss": "CosPGDLoss()", "1.attack": …, "inner.steps": …}``. A text that cannot be parsed stays
    a text.

    Args:
        settings: Output of :meth:`robustseg.attacks.Attack.describe`, of any version.
        depth: Depth of the attack within other attacks.
    """
    found: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    members: dict[int, dict[str, Any]] = {}
    for key, value in settings.items():
        head, _, rest = str(key).partition(".")
        if rest and head == "inner" and depth < _DEEPEST:
            inner[rest] = value
        elif rest and re.fullmatch("[0-9]{1,3}", head) and depth < _DEEPEST:
            members.setdefault(int(head), {})[rest] = value
        else:
            found[key] = _upgraded(key, value)
    if members:
        found["members"] = [upgrade_settings(members[number], depth + 1) for number in sorted(members)]
    if inner:
        found["inner"] = upgrade_settings(inner, depth + 1)
    return found


def _upgraded(key: str, value: Any) -> Any:
    if not isinstance(value, str) or len(value) > _LONGEST:
        return value
    if key in _PARTS and re.fullmatch(r"[A-Za-z_]\w*\(.*\)", value, re.DOTALL):
        try:
            return _value(ast.parse(value, mode="eval").body)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return value
    if key == "stages" and (parts := re.findall(r"(\d+) at ([\d.]+) eps", value)):
        return [{"steps": int(steps), "eps_factor": float(factor)} for steps, factor in parts]
    if key in _LISTS:
        return [_number(part) for part in value.split(", ")]
    return value


def _value(node: ast.expr) -> Any:
    """Convert a parsed representation to the form of :func:`~robustseg.attacks.describe.describe_part`.

    Raises:
        ValueError: It contains more than literals and constructor calls with named arguments.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        described: dict[str, Any] = {CLASS: name}
        if len(node.args) > 1 or (node.args and name not in _POSITIONAL):
            raise ValueError(name)
        if node.args:
            described[_POSITIONAL[name]] = _value(node.args[0])
        return described | {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(element) for element in node.elts]
    value = ast.literal_eval(node)
    return {str(key): each for key, each in value.items()} if isinstance(value, dict) else value


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def upgrade_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a card of format 1 to format 2; values of a wrong type stay for the reader to report."""
    new = {**card, "format": 2}
    model = card.get("model")
    if isinstance(model, dict) and isinstance(model.get("trained_with"), dict):
        new["model"] = {**model, "trained_with": upgrade_settings(model["trained_with"])}
    if isinstance(card.get("clean"), dict):
        new["clean"] = _with_honest_intervals(card["clean"])
    if isinstance(card.get("attacks"), dict):
        new["attacks"] = {name: _upgraded_row(row) for name, row in card["attacks"].items()}
    worst = card.get("worst_case")
    if isinstance(worst, dict) and isinstance(worst.get("per_image"), dict):
        new["worst_case"] = {**worst, "per_image": _with_honest_intervals(worst["per_image"])}
    return new


def _upgraded_row(row: Any) -> Any:
    if not isinstance(row, dict) or not isinstance(row.get("settings"), dict):
        return row
    return _with_honest_intervals({**row, "settings": upgrade_settings(row["settings"])})


def _with_honest_intervals(row: dict[str, Any]) -> dict[str, Any]:
    images, without = row.get("images"), row.get("without_valid_pixels", 0)
    if not isinstance(images, int) or not isinstance(without, int) or not 0 < images - without < FEWEST_IMAGES:
        return row
    return {**row, "confidence": {}, "no_confidence": too_few(images - without)}
