"""Messages and exit statuses of exceptions that end a command."""

from __future__ import annotations

import os

from robustseg.resume.ending import explanation, is_interrupt

_OF_LIBRARIES = ("lightning_fabric.utilities.exceptions.MisconfigurationException",)
"""Exceptions of other packages that say what is wrong with what was asked for."""


def message_of(command: str, error: BaseException) -> str | None:
    """What a user needs to know of an exception; None where that is the traceback.

    Args:
        command: Name of the command that it ended.
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
    """Whether an exception is about what was asked for, so that its message is all that a user needs.

    Those are the package's own; they are told by their names, as importing each of them would import everything.
    """
    kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
    return any(kind.startswith("robustseg.") or kind in _OF_LIBRARIES for kind in kinds)
