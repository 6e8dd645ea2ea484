"""Flags as the checks make them: findings, the worst of which counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from robustseg.evaluation.card import Card, Flag, FlagVerdict

SEVERITY: Mapping[FlagVerdict, int] = {"ok": 0, "not checked": 1, "caution": 2, "unreliable": 3}
"""Order of findings: a flag shows the gravest."""


class Finding(NamedTuple):
    """A single finding of a check."""

    verdict: FlagVerdict
    line: str


def worst_finding(findings: Sequence[Finding], good: str) -> Finding:
    """Return the first of the worst findings, or an "ok" with the line ``good`` if there are none."""
    if not findings:
        return Finding("ok", good)
    return max(findings, key=lambda finding: SEVERITY[finding.verdict])


def flag_of(number: int, name: str, finding: Finding, evidence: Mapping[str, Any] | None) -> Flag:
    """Return the flag that shows a finding.

    Args:
        number: 1..10.
        name: Of the check.
        finding: The worst one.
        evidence: The figures behind it, JSON-serialisable.
    """
    return Flag(number=number, name=name, verdict=finding.verdict, line=finding.line, evidence=dict(evidence or {}))


def probe_evidence(card: Card, experiment: str) -> dict[str, Any] | None:
    """Return the evidence of an experiment of the model's probe; None if it was not made."""
    return None if card.checks is None else card.checks.get(experiment)


NOT_PROBED = Finding(
    "not checked", "The model was not probed: evaluate with the checks switched on before trusting the figures."
)


def points(share: float) -> str:
    """Format a difference of two shares in percentage points."""
    value = 100 * share
    return "less than 0.1 points" if 0 < value < 0.05 else f"{value:.1f} points"


def percent(share: float | None) -> str:
    """Format a share in percent."""
    return "–" if share is None else f"{100 * share:.1f} %"
