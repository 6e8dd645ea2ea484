"""Table of checks: each one runs by itself within a time budget, and its failure is a row."""

from __future__ import annotations

import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "FAILED", "measured", "not run"]


class Wrong(Exception):
    """A fault that a check found."""


class Absent(Exception):
    """A reason for which a check cannot run here, such as a missing package."""


class OutOfTime(BaseException):
    """The end of a check's time; no Exception, so that nothing on the way takes it for a failure of its own."""


@dataclass(frozen=True)
class Check:
    """One row to be.

    Attributes:
        name: First column.
        run: Returns what was found; raises Wrong if that is wrong, or Absent.
        correctness: A failure ends the script with status 1; speed is only measured.
        needs: Seconds without which it is not worth beginning.
        longest: Seconds after which it is cut off.
    """

    name: str
    run: Callable[[], str]
    correctness: bool = True
    needs: float = 0.0
    longest: float = 75.0


@dataclass(frozen=True)
class Row:
    """Outcome of one check."""

    name: str
    verdict: Verdict
    found: str
    seconds: float
    correctness: bool


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime after some seconds, at the next Python instruction; a running kernel is waited for."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def end(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_check(check: Check, left: float) -> Row:
    """Run one check with ``left`` seconds; no exception of it passes but Ctrl-C."""
    start = time.perf_counter()

    def row(verdict: Verdict, found: str) -> Row:
        return Row(check.name, verdict, one_line(found), time.perf_counter() - start, check.correctness)

    if left <= check.needs:
        return row("not run", "out of time")
    try:
        with warnings.catch_warnings(), time_limit(min(left, check.longest)):
            warnings.simplefilter("ignore")
            found = check.run()
        return row("ok" if check.correctness else "measured", found)
    except Absent as reason:
        return row("not run", str(reason))
    except Wrong as fault:
        return row("FAILED", str(fault))
    except OutOfTime:
        return row("not run", "out of time" if left <= check.longest else f"cut off after {check.longest:g} s")
    except Exception as error:
        return row("FAILED", f"{type(error).__name__}: {error}")


def run_checks(
    checks: Iterable[Check], seconds: float, lost: Callable[[], str] = str, rows: list[Row] | None = None
) -> list[Row]:
    """Run all checks one after the other, and report each on standard error as it ends.

    Args:
        checks: The most important one first.
        seconds: Time for all of them; those for which none is left are rows that say so.
        lost: Asked after each failure; returns a reason for which no further check can run, or nothing.
        rows: List that takes the rows, for a caller that is interrupted.
    """
    rows = [] if rows is None else rows
    end, reason = time.perf_counter() + seconds, ""
    for check in checks:
        if reason:
            row = Row(check.name, "not run", reason, 0.0, check.correctness)
        else:
            row = run_check(check, end - time.perf_counter())
        if row.verdict == "FAILED":
            reason = lost()
        rows.append(row)
        print(f"{row.verdict:8} {row.seconds:5.1f} s  {row.name}: {row.found}", file=sys.stderr, flush=True)
    return rows


def one_line(text: str) -> str:
    """Return a text without line breaks and bars, which would break the table, and of at most 300 characters."""
    text = " ".join(text.split()).replace("|", "¦")
    return text if len(text) <= 300 else text[:299] + "…"


def markdown(rows: Sequence[Row], facts: Sequence[tuple[str, str]]) -> str:
    """Write facts and rows as Markdown."""
    lines = [f"{name}: {value}  " for name, value in facts]
    lines += ["", "| check | verdict | found | s |", "|---|---|---|---|"]
    lines += [f"| {row.name} | {row.verdict} | {row.found} | {row.seconds:.1f} |" for row in rows]
    return "\n".join([*lines, "", summary(rows)]) + "\n"


def summary(rows: Sequence[Row]) -> str:
    """Count the verdicts in one sentence."""
    counts = {
        verdict: sum(row.verdict == verdict for row in rows) for verdict in ("ok", "measured", "FAILED", "not run")
    }
    failed = sum(row.verdict == "FAILED" and row.correctness for row in rows)
    skipped = sum(row.verdict == "not run" and row.correctness for row in rows)
    parts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return f"{len(rows)} rows: {parts}; of correctness {failed} failed and {skipped} not run."


def status(rows: Sequence[Row]) -> int:
    """Return the exit status: 1 if a row of correctness failed."""
    return int(any(row.verdict == "FAILED" and row.correctness for row in rows))
