"""Messages and exit statuses of exceptions that end a command."""

from __future__ import annotations

import os

from robustseg.resume.ending import explanation, is_interrupt

_OF_LIBRARIES = ("lightning_fabric.utilities.exceptions.MisconfigurationException",)
"""Exceptions of other packages about wrong user input."""


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


def is_expected(error: BaseException) -> bool:
    """Return whether an exception is about the user's input, so that its message suffices.

    These are the package's own exceptions, recognised by name, since importing each would import everything.
    """
    kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
    return any(kind.startswith("robustseg.") or kind in _OF_LIBRARIES for kind in kinds)
