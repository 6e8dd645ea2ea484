"""Escaping of text from users and foreign files, such as names of attacks, for output on one line."""

from __future__ import annotations

import unicodedata


def one_line(text: str) -> str:
    """Put ``text`` on one line; control characters, which could manipulate a terminal, become visible escapes."""
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char)[0] == "C" else char
        for char in " ".join(str(text).split())
    )
