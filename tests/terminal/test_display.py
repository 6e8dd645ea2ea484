"""The display of a command: a bar that fits the terminal, and a line per minute in a log."""

from __future__ import annotations

import io
import os
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.file_proxy import FileProxy

from robustseg.terminal import Count, Display, note, showing, shown, track
from robustseg.terminal.bar import Bar, State, bar_line, log_line

EVALUATION = ["attack 2/4 segpgd20", "step 13/20", "images 32/101"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def drawn(state: State, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, legacy_windows=False)
    console.print(Bar(iter([state])))
    return console.file.getvalue()


@given(
    st.lists(st.text(max_size=80), min_size=1, max_size=5),
    st.integers(20, 200),
    st.integers(0, 10**6),
    st.none() | st.integers(0, 10**6),
    st.integers(0, 100),
)
def test_a_bar_is_one_line_that_fits(parts, width, passed, left, share):
    state = State(parts, passed, left, share / 100)
    before, full, empty, behind = bar_line(state, width)
    if cell_len(before) + cell_len(behind) > width - 2:  # nothing is left to cut
        assert cell_len(before) <= 1 or len(behind) < 24
    text = drawn(state, width)
    assert text.count("\n") <= 1
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert "\x1b" not in text.replace("\\x1b", "")
    assert full >= 0 <= empty


def test_all_stands_in_80_columns():
    line = drawn(State(EVALUATION, 73, 192, 0.275), 80)
    assert line.split() == [
        "attack", "2/4", "segpgd20", "━━━━──────────", "step", "13/20", "·", "images", "32/101", "·",
        "1:13", "·", "3:12", "left",
    ]  # fmt: skip


def test_a_long_name_is_cut_before_a_number_is_left_out():
    parts = ["attack 11/14 a_name_that_is_far_too_long_for_a_terminal", "step 1000/1000", "images 1000/2000"]
    before, full, empty, behind = bar_line(State(parts, 4000, 8000, 0.3), 90)
    assert before.startswith("attack 11/14 a_n")
    assert before.endswith("…")
    assert behind == "step 1000/1000 · images 1000/2000 · 1:06:40 · 2:13:20 left"
    assert full + empty >= 6


def test_a_narrow_terminal_shows_the_attack_and_the_times_in_place_of_a_bar():
    assert bar_line(State(EVALUATION, 65, 333, 0.3), 30) == ("attack 2/4…", 0, 0, "1:05 · 5:33 left")


@pytest.mark.parametrize(
    "name", ["pgd[l2]", "a[/b]", "[bold]x", ":smile:", "a\x1b[2Jb", "\u202ea", "a\rb", "a\nb"], ids=ascii
)
def test_names_are_no_markup_and_cannot_manipulate_a_terminal(name):
    state = State([f"attack 1/1 {name}"], 1, 2, 0.5)
    for text in (drawn(state, 100), log_line(state)):
        (line,) = text.splitlines()
        assert line.strip().isprintable()
    if name.isprintable():
        assert name in drawn(state, 100)


def test_a_line_soon_and_then_one_per_minute():
    clock = Clock()
    display = Display(bar=False, clock=clock)
    stage = Count("attack 1/1 pgd, images", 1000)
    display._has_bar = lambda: pytest.fail("not asked again")
    display._draw = lambda: setattr(display, "_since", 0.0)
    display.begin(stage)
    lines = {}
    for second in range(1, 400):
        clock.now = float(second)
        stage.advance(clock.now)
        line = display.due_line()
        if line is not None:
            lines[second] = line
    assert list(lines) == [5, 60, 120, 180, 240, 300, 360]
    assert lines[60] == "robustseg: attack 1/1 pgd, images 61/1000, 1:00 so far, about 15:40 left"


def test_lines_are_printed_while_the_work_hangs(capfd, monkeypatch):
    monkeypatch.setattr("robustseg.terminal.display.FIRST", 0.2)
    with showing(Display(bar=False)) as display:
        display._next_line = 0.2
        for _ in track([0], "one long item"):
            time.sleep(1.5)
    out = capfd.readouterr().out
    assert out.startswith("robustseg: one long item 1/1, 0:0")
    assert "\r" not in out
    assert "\x1b" not in out


def test_quiet_prints_neither_progress_nor_notes(capfd):
    with showing(Display(bar=True, quiet=True)) as display:
        display.prepare("building")
        list(track(range(3), "item"))
        note("epoch 1/2")
        assert display.state() is None
    assert capfd.readouterr() == ("", "")


def test_outside_of_commands_nothing_is_drawn_but_notes_are(capfd):
    list(track(range(3), "item"))
    assert shown().state() is None
    note("epoch 1/2 val/a\x1b[31m/miou")
    assert capfd.readouterr().out == "epoch 1/2 val/a\\x1b[31m/miou\n"


def test_a_stage_ends_with_those_within_it_also_after_an_error():
    display = Display(bar=False)
    outer, inner = Count("outer", 2), Count("inner", 2)
    with pytest.raises(KeyError), display.stage(outer):
        display.begin(inner)
        assert display.state().parts == ["outer 1/2", "inner 1/2"]
        raise KeyError
    assert display.state() is None
    display.end(inner)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is nothing to fork")
def test_a_forked_process_prints_past_the_bar(monkeypatch):
    """A data worker would wait for a lock of the bar that nobody frees there."""
    plain = io.StringIO()
    with showing(Display(bar=False)):
        monkeypatch.setattr(sys, "stdout", FileProxy(Console(), plain))
        child = os.fork()
        if not child:
            os._exit(0 if sys.stdout is plain and not shown().visible else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_a_hidden_display_draws_nothing_any_more(monkeypatch, capsys):
    monkeypatch.setattr("robustseg.terminal.display.FIRST", 0.0)
    display = Display(bar=False)
    display.prepare("building")
    assert display.state() is not None
    display.hide()
    with display.stage(Count("image", 3)):
        display.prepare("writing")
        assert display.state() is None
    assert capsys.readouterr().out == ""
