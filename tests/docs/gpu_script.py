"""benchmarks/gpu.py as tests call it and read its table."""

from __future__ import annotations

from tests.helpers.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"
TINY = ["--device", "cpu", "--tiny"]


def rows_of(markdown: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]
    assert all(len(row) == 4 for row in rows), markdown
    assert rows[0] == ["check", "verdict", "found", "s"]
    return {row[0]: row[1:] for row in rows[2:]}
