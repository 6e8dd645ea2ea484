"""Text of users and strangers, such as names of attacks, as it can stand in a line."""

from __future__ import annotations

import unicodedata


def one_line(text: str) -> str:
    """``text`` on one line, with control characters, which could steer a terminal, as escape sequences to read."""
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char)[0] == "C" else char
        for char in " ".join(str(text).split())
    )
