"""Times in texts: those that users give, those that they read, and those of SLURM."""

from __future__ import annotations

import math
import re

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}
_PART = r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)\s*"


class PlanError(ValueError):
    """An error of a plan: a time that cannot be read or kept, or a command that cannot be planned."""


def parse_time(text: str) -> float:
    """Parse a time such as ``8h``, ``90m``, ``1d12h`` or ``8:00:00``; return seconds.

    Raises:
        PlanError: The text is of no such form, or no time at all.
    """
    clock = re.fullmatch(r"\s*(\d+):([0-5]\d):([0-5]\d)\s*", text)
    if clock is not None:
        hours, minutes, rest = map(float, clock.groups())
        seconds = 3600 * hours + 60 * minutes + rest
    elif re.fullmatch(rf"\s*({_PART})+", text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text))
    else:
        raise PlanError(f"--plan {text}: write a time with its unit, such as 8h, 90m, 1d12h or 8:00:00.")
    if not 0 < seconds < math.inf:
        raise PlanError(f"--plan {text}: a run takes longer: give it a time such as 8h.")
    return seconds


def time_text(seconds: float) -> str:
    """Format a time in two units at most: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``5 h 02 min``, ``2 d 07 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, part, of_part in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit * (2 if name == "d" else 1):
            large, small = divmod(round(seconds / part), unit // part)
            return f"{large} {name}" + (f" {small:02} {of_part}" if small else "")
    return f"{whole} s"


def slurm_time(seconds: float) -> str:
    """Format a time limit for sbatch, rounded up to minutes: ``8:00:00`` or ``1-12:00:00``."""
    minutes = max(1, math.ceil(seconds / 60))
    days, minutes = divmod(minutes, 24 * 60)
    clock = f"{minutes // 60}:{minutes % 60:02}:00"
    return f"{days}-{minutes // 60:02}:{minutes % 60:02}:00" if days else clock
