"""What a card says of its attacks: which follow the gradient, within which ball, along which loss."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from robustseg.types import parse_fraction

Row = Mapping[str, Any]
"""An attack of a card."""

_BLACK_BOX = ("Square",)
_ELSEWHERE = ("source", "path")
"""Settings of attacks that take their perturbation from another model or from a file."""


def ran(card: Mapping[str, Any]) -> dict[str, Row]:
    """The attacks that have scores."""
    return {name: row for name, row in card["attacks"].items() if row.get("error") is None}


def threat_of(row: Row) -> tuple[str, str] | None:
    """(ε, norm), None for an attack whose perturbation may have any size."""
    settings = row["settings"]
    return None if settings.get("eps") is None else (str(parse_fraction(settings["eps"], "eps")), str(settings["norm"]))


def untargeted(row: Row) -> bool:
    """Whether the attack wants the truth gone and nothing else."""
    settings = row["settings"]
    return not settings.get("targeted") and "target_map" not in settings


def white_box(row: Row) -> bool:
    """Whether the attack follows the gradient of the very model that is evaluated.

    Not those that never ask for a gradient, nor those that were made on a source model or are read from a file.
    """
    settings = row["settings"]
    elsewhere = any(key.split(".")[-1].startswith(_ELSEWHERE) for key in settings)
    follows = any(member.get("attack") not in _BLACK_BOX for member in _members(settings))
    return follows and not elsewhere and row.get("backwards") != 0


def steps_of(row: Row) -> int | None:
    """Gradient steps of an attack that is a single run with nothing else in it."""
    steps = row["settings"].get("steps")
    return steps if isinstance(steps, int) else None


def losses_of(row: Row) -> set[str]:
    """Names of the losses of an attack and of its members, those of one step left out.

    An attack without a named loss, such as CW, follows one of its own and counts by its name.
    """
    return {name for settings in _members(row["settings"]) for name in _loss(settings)}


def _members(settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Settings of the members of an ensemble, or of the attack itself."""
    members: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        if match := re.match(r"((?:\d+\.)+)(.+)", key):
            members.setdefault(match[1], {})[match[2]] = value
    whole = {prefix: member for prefix, member in members.items() if not _has_members(prefix, members)}
    yield from whole.values() if whole else [dict(settings)]


def _has_members(prefix: str, members: Mapping[str, Any]) -> bool:
    return any(other != prefix and other.startswith(prefix) for other in members)


def _loss(settings: Mapping[str, Any]) -> Iterator[str]:
    if settings.get("attack") in _BLACK_BOX or settings.get("steps") == 1:
        return
    if "loss" in settings:
        yield str(settings["loss"]).split("(")[0]
    elif "attack" in settings:
        yield str(settings["attack"])
