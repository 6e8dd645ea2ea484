"""Output of the doctor: terminal report, summary and JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from robustseg.doctor.findings import Finding, Verdict, counted, verdict_of
from robustseg.terminal.text import one_line, printable

_STYLES: dict[Verdict, str] = {"ok": "green", "caution": "yellow", "problem": "bold red"}


def open_console() -> Console:
    """Open a console as wide as the terminal; in a log file 120 columns wide, or as wide as COLUMNS."""
    wide = None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit() else 120
    return Console(width=wide, highlight=False, soft_wrap=False)


def print_section(console: Console, title: str, findings: list[Finding]) -> None:
    """Print a line for each finding, with the remedy below.

    Args:
        console: Console to print to.
        title: Title of the section.
        findings: Findings of the section.
    """
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, width=7)
    table.add_column(overflow="fold", max_width=max(16, min(24, console.width // 5)))
    table.add_column(overflow="fold", ratio=1)
    for finding in findings:
        text = Text(printable(finding.text))
        if finding.remedy is not None:
            text.append(printable(f"\nremedy: {finding.remedy}"), style="bold")
        table.add_row(Text(finding.verdict, style=_STYLES[finding.verdict]), Text(one_line(finding.name)), text)
    console.print(Text(one_line(title), style="bold underline"))
    console.print(table)
    console.print()


def summary(sections: Mapping[str, list[Finding]]) -> str:
    """Return a summary with the number of problems and their sections."""
    everything = [finding for findings in sections.values() for finding in findings]
    counts = {verdict: sum(finding.verdict == verdict for finding in everything) for verdict in _STYLES}
    where = ", ".join(name for name, findings in sections.items() if verdict_of(findings) == "problem")
    text = f"{counted(counts['problem'], 'problem')}, {counted(counts['caution'], 'caution')}, {counts['ok']} ok"
    return f"{text}; the problems are in: {where}" if where else text


def to_json(sections: Mapping[str, list[Finding]], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Convert all findings and their figures to JSON-serialisable values.

    Args:
        sections: Findings of each section.
        seconds: Duration of each section.
    """
    return {
        "verdict": verdict_of([finding for findings in sections.values() for finding in findings]),
        "findings": [
            {"section": name, **finding._asdict()} for name, findings in sections.items() for finding in findings
        ],
        "seconds": dict(seconds),
    }
