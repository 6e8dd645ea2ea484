"""Messages and exit statuses of exceptions that end a command."""

from __future__ import annotations

import os

from robustseg.config.errors import is_expected
from robustseg.resume.ending import explanation, is_interrupt


def message_of(command: str, error: BaseException) -> str | None:
    """Return the message of an exception for a user; None if the user needs the traceback.

    Args:
        command: Name of the command that the exception ended.
        error: The exception.
    """
    again = "run the same command again" + (" with --ckpt_path last to go on." if command == "train" else " to go on.")
    if is_interrupt(error):
        return f"robustseg: interrupted: {again}"
    if os.environ.get("ROBUSTSEG_TRACEBACK"):
        return None
    if is_expected(error):
        return f"robustseg: error: {error}"
    known = explanation(error)
    return None if known is None else f"robustseg: error: {known} Then {again}"
