"""One check of a result card and its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Verdict = Literal["ok", "caution", "unreliable", "not checked"]

SEVERITY: Mapping[Verdict, int] = {"ok": 0, "not checked": 1, "caution": 2, "unreliable": 3}
"""Which of several findings a flag shows."""


@dataclass(frozen=True)
class Flag:
    """One of the ten checks of a card."""

    number: int
    """1..10."""
    name: str
    verdict: Verdict
    line: str
    """What was found and, where it is bad, what to do."""
    evidence: Mapping[str, Any]
    """The figures behind the verdict, JSON-serialisable."""

    def as_dict(self) -> dict[str, Any]:
        """For the card."""
        return {
            "number": self.number,
            "name": self.name,
            "verdict": self.verdict,
            "line": self.line,
            "evidence": dict(self.evidence),
        }


class Finding(NamedTuple):
    """One thing that a check noticed."""

    verdict: Verdict
    line: str


def worst_finding(findings: Sequence[Finding], good: str) -> Finding:
    """The first of the worst findings, or that all is well."""
    if not findings:
        return Finding("ok", good)
    return max(findings, key=lambda finding: SEVERITY[finding.verdict])


def probe_evidence(card: Mapping[str, Any], experiment: str) -> dict[str, Any] | None:
    """What the probe of the model found in an experiment, None where there was none."""
    checks = card.get("checks")
    return None if checks is None else checks.get(experiment)


NOT_PROBED = Finding(
    "not checked", "The model was not probed: evaluate with the checks switched on before trusting the figures."
)


def points(share: float) -> str:
    """A difference of two shares for people."""
    return f"{100 * share:.1f} points"


def percent(share: float | None) -> str:
    """A share for people."""
    return "–" if share is None else f"{100 * share:.1f} %"
