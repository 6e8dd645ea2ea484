"""Text of users cannot manipulate a terminal, whatever prints it."""

from __future__ import annotations

import ast

import pytest

from robustseg.terminal.text import complain, duration, one_line, printable, write
from tests.helpers.paths import ROOT

HOSTILE = ["\x1b[31mred", "\x9b2J", "a\rb", "a\x08b", "\u202eabc", "\u2066abc", "\x07", "\ud800", "a\u200bb", "\x00"]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_characters_that_manipulate_a_terminal_become_visible(text, capsys):
    write(text)
    complain(text)
    for seen in (one_line(text), printable(text), *capsys.readouterr()):
        shown = seen.removesuffix("\n")
        assert shown.isprintable()
        assert shown.encode()  # a lone surrogate cannot be encoded


def test_lines_are_kept_where_there_may_be_several():
    assert printable("one\n\ttwo\r\nthree") == "one\n    two\\r\nthree"
    assert one_line("one\n\ttwo\r\nthree") == "one two three"


def test_other_writing_is_left_alone():
    text = "größer ±0.5 · 日本語 عربي ✓ – …"
    assert one_line(text) == printable(text) == text


def test_all_plain_text_is_printed_in_one_place():
    """Another print would be one that forgets to escape; rich prints objects of its own."""
    users = []
    for path in sorted((ROOT / "robustseg").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
            if name in ("print", "sys.stdout.write", "sys.stderr.write"):
                users.append(path.relative_to(ROOT).as_posix())
    assert set(users) == {"robustseg/terminal/text.py"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (42.4, "0:42"), (725, "12:05"), (10807, "3:00:07"), (-1, "0:00")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
