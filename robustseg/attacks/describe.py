"""Descriptions of attacks and their parts as nested plain data, for results and comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor, nn

CLASS = "class"
"""Key of a part's class among its settings; attacks have theirs under ``attack``."""


def describe_part(part: object) -> dict[str, Any]:
    """Describe a loss, a step rule, a transform or a target map: its class and its public attributes.

    Returns:
        ``{"class": "SegPGDLoss", "schedule": "linear", "constant": 0.25}``; parts within the part likewise.
    """
    public = {name: value for name, value in vars(part).items() if not name.startswith("_")}
    return {CLASS: type(part).__name__, **{name: plain_setting(value) for name, value in public.items()}}


def plain_setting(value: Any) -> Any:
    """Convert ``value`` to JSON types: strings, finite numbers, booleans, None, lists and mappings of these."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain_setting(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_setting(each) for each in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"  # repr() would contain an address
    opaque = isinstance(value, (Fraction, Path, Tensor, nn.Module)) or not hasattr(value, "__dict__")
    return str(value) if opaque else describe_part(value)


def setting_text(value: Any) -> str:
    """Format a setting of a description as text: ``SegPGDLoss(schedule='linear', constant=0.25)`` for a part."""
    if isinstance(value, Mapping) and isinstance(value.get(CLASS), str):
        settings = ", ".join(f"{name}={_quoted(each)}" for name, each in value.items() if name != CLASS)
        return f"{value[CLASS]}({settings})"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_quoted, value))}]"
    return str(value)


def _quoted(value: Any) -> str:
    return repr(value) if isinstance(value, str) else setting_text(value)
