"""The arithmetic of plans: times, lines through measurements, shares of processes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustseg.planning.bill import Bill, Item, Line
from robustseg.planning.times import PlanError, parse_time, slurm_time, time_text


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_subnormal=False)  # the suite flushes them to 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("8h", 28800),
        ("90m", 5400),
        ("90 min", 5400),
        ("1d12h", 129600),
        ("1.5h", 5400),
        ("45s", 45),
        ("8:00:30", 28830),
    ],
)
def test_times_are_read(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["8", "", "h", "8 hours", "-1h", "0h", "8:90:00", "1e999h", "9" * 400 + "h", "8h9"])
def test_other_times_are_refused_with_the_form(text):
    with pytest.raises(PlanError, match="such as 8h"):
        parse_time(text)


@pytest.mark.parametrize(
    ("seconds", "text", "slurm"),
    [
        (0.04, "0.0 s", "0:01:00"),
        (9.949, "9.9 s", "0:01:00"),
        (59.4, "59 s", "0:01:00"),
        (59.6, "1 min", "0:01:00"),
        (61, "1 min 01 s", "0:02:00"),
        (3599.7, "1 h", "1:00:00"),
        (7380, "2 h 03 min", "2:03:00"),
        (48 * 3600, "2 d", "2-00:00:00"),
        (36 * 3600, "36 h", "1-12:00:00"),
        (55 * 3600, "2 d 07 h", "2-07:00:00"),
    ],
)
def test_times_are_written(seconds, text, slurm):
    assert (time_text(seconds), slurm_time(seconds)) == (text, slurm)


@given(floats(0.01, 100), floats(0, 50), st.lists(st.integers(1, 10**6), min_size=2, unique=True))
def test_a_line_is_found_again(slope, fixed, sizes):
    line = Line.through([(size, fixed + slope * size) for size in sizes])
    expected = 3 * fixed + 500_000 * slope
    assert line.of(3, 500_000) == pytest.approx(expected, rel=1e-3)


def test_lines_through_noise_never_fall():
    assert Line.through([(100, 2.0), (200, 1.0)]).of(1, 10**6) == pytest.approx(1.5)
    assert Line.through([(100, 1.0), (200, 3.0)]).of(1, 0) == 0  # and no seconds below 0 for small images
    assert Line.through([(100, 1.0), (100, 3.0)]).of(7, 50) == pytest.approx(1.0)
    assert Line.through([]).of(1, 100) == 0


def bill(batches: int, shared: float, alone: float, start: float) -> Bill:
    items = [Item("pgd", shared * 0.75, likely=0.5, early=True), Item("clean", shared * 0.25)]
    return Bill([*items, Item("report", alone, shared=False)], start, batches)


def test_processes_share_whole_batches_and_each_starts():
    of = bill(batches=5, shared=100.0, alone=7.0, start=3.0)
    assert of.seconds(at_most=True) == 110
    assert of.seconds() == 3 + 7 + 37.5 + 25
    assert of.seconds(2, at_most=True) == 3 + 60 + 7  # three of five batches
    assert of.seconds(3, at_most=True) == of.seconds(4, at_most=True) == 3 + 40 + 7
    assert of.seconds(9, at_most=True) == 3 + 20 + 7
    assert [of.processes_within(seconds) for seconds in (110, 109, 70, 50, 49, 30, 29)] == [1, 2, 2, 3, 5, 5, None]


@given(st.integers(1, 300), floats(0, 1e6), floats(0, 1e4), floats(0, 1e3), floats(1e-3, 1e7))
def test_the_fewest_processes_are_found(batches, shared, alone, start, within):
    of = bill(batches, shared, alone, start)
    ends = [n for n in range(1, batches + 1) if of.seconds(n, at_most=True) <= within]
    assert of.processes_within(within) == (ends[0] if ends else None)


def test_nothing_to_share():
    of = Bill([Item("report", 2.0, shared=False)], 1.0, 0)
    assert of.seconds() == of.seconds(4) == 3
    assert of.processes_within(2.5) is None
    assert math.isfinite(of.seconds(1, at_most=True))
