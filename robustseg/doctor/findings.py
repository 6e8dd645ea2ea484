"""Findings of the doctor's sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Verdict = Literal["ok", "caution", "problem"]


class Finding(NamedTuple):
    """One line of the doctor's report."""

    name: str
    """Subject of the check, in a word or two."""
    verdict: Verdict
    """``ok``, ``caution`` for a slow or fragile run, or ``problem`` for one that would end, hang or be wrong."""
    text: str
    """The finding itself."""
    remedy: str | None = None
    """Remedy; given unless the verdict is ok."""
    values: Mapping[str, Any] = {}
    """The figures behind the text, JSON-serialisable."""


def ok(name: str, text: str, **values: Any) -> Finding:
    """Return a finding that needs no action."""
    return Finding(name, "ok", text, None, values)


def caution(name: str, text: str, remedy: str, **values: Any) -> Finding:
    """Return a finding about a run that would be slow or fragile."""
    return Finding(name, "caution", text, remedy, values)


def problem(name: str, text: str, remedy: str, **values: Any) -> Finding:
    """Return a finding about a run that would end, hang or be wrong."""
    return Finding(name, "problem", text, remedy, values)


def verdict_of(findings: list[Finding]) -> Verdict:
    """Return the worst verdict among findings."""
    order: tuple[Verdict, ...] = ("ok", "caution", "problem")
    return max((finding.verdict for finding in findings), key=order.index, default="ok")


def mebibytes(count: float) -> str:
    """Format a number of bytes: MiB below one GiB, else GiB or TiB."""
    for size, unit in ((2**40, "TiB"), (2**30, "GiB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 2**20:.0f} MiB"


def counted(count: int, noun: str) -> str:
    """Format a count with its noun: ``1 worker``, ``2 workers``."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"
