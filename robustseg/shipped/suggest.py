"""Suggestions for unknown names; the module imports nothing slow."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean X?`` with a leading space, or an empty string if no known name is similar."""
    spelled = {_plain(each): each for each in known}
    near = difflib.get_close_matches(_plain(name), spelled, n=1, cutoff=0.6)
    return f" Did you mean {spelled[near[0]]}?" if near else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
