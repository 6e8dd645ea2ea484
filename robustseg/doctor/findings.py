"""What a section of the doctor found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Verdict = Literal["ok", "caution", "problem"]


class Finding(NamedTuple):
    """One line of the doctor's report."""

    name: str
    """What was looked at, in a word or two."""
    verdict: Verdict
    """A problem ends or hangs a run, a caution makes it slow or leaves something to chance."""
    text: str
    """What was found."""
    remedy: str | None = None
    """What to do; given unless the verdict is ok."""
    values: Mapping[str, Any] = {}
    """The figures behind the text, JSON-serialisable."""


def ok(name: str, text: str, **values: Any) -> Finding:
    """Nothing to do."""
    return Finding(name, "ok", text, None, values)


def caution(name: str, text: str, remedy: str, **values: Any) -> Finding:
    """It works, but slowly or by luck."""
    return Finding(name, "caution", text, remedy, values)


def problem(name: str, text: str, remedy: str, **values: Any) -> Finding:
    """A run would end, hang or be wrong."""
    return Finding(name, "problem", text, remedy, values)


def verdict_of(findings: list[Finding]) -> Verdict:
    """The worst verdict among findings."""
    order: tuple[Verdict, ...] = ("ok", "caution", "problem")
    return max((finding.verdict for finding in findings), key=order.index, default="ok")


def mebibytes(count: float) -> str:
    """A number of bytes as a person writes it: MiB below one GiB, else GiB or TiB."""
    for size, unit in ((2**40, "TiB"), (2**30, "GiB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 2**20:.0f} MiB"


def counted(count: int, noun: str) -> str:
    """``1 worker``, ``2 workers``."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"
