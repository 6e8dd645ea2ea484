"""Escaping of text from users and foreign files, such as names of attacks, before it is printed."""

from __future__ import annotations

import sys
import unicodedata


def one_line(text: str) -> str:
    """Put ``text`` on one line; control characters, which could manipulate a terminal, become visible escapes."""
    return _visible(" ".join(str(text).split()))


def printable(text: str) -> str:
    """Keep the lines of ``text``; other control characters become visible escapes, and tabs become spaces."""
    return "\n".join(_visible(line.expandtabs(4)) for line in str(text).split("\n"))


def write(text: str) -> None:
    """Print ``text``, which may hold text of users and several lines; it cannot manipulate a terminal."""
    print(printable(text), flush=True)


def complain(text: str) -> None:
    """Print ``text`` as :func:`write` does, to standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def _visible(text: str) -> str:
    """Replace control, format (such as changes of the writing direction) and unassigned characters, and lone
    surrogates, which cannot be encoded."""
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char)[0] == "C" else char for char in text
    )


def duration(seconds: float) -> str:
    """Format a time: ``0:42``, ``12:05`` or ``3:00:07``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
