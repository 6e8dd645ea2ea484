"""Record that training keeps in a checkpoint: validation figures, data, step and attacker."""

from __future__ import annotations

import math
from typing import Any

RECORD_KEY = "robustseg"
"""Entry of a Lightning checkpoint under which training keeps its record."""
RECORD_FORMAT = 1
"""Version of the record, increased when its meaning changes."""


def record_in(content: object) -> dict[str, Any] | None:
    """Return the record in the content of a file; None without one of a known format."""
    record = content.get(RECORD_KEY) if isinstance(content, dict) else None
    if not isinstance(record, dict) or record.get("format") != RECORD_FORMAT or not _is_plain(record):
        return None
    complete = {"val", "data", "epoch", "global_step", "trained_with"} <= record.keys()
    return record if complete and _is_validation(record["val"]) else None


def _is_validation(value: object) -> bool:
    """Return whether a record's ``val`` is None or has the figures."""
    if not isinstance(value, dict):
        return value is None
    figures = [value.get(name, "missing") for name in ("miou", "pixel_acc")]
    return all(figure is None or (isinstance(figure, float) and 0 <= figure <= 1) for figure in figures)


def _is_plain(value: object) -> bool:
    """Return whether JSON can represent ``value`` unchanged."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(entry) for name, entry in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
