"""Messages and exit statuses of exceptions that end a command."""

from __future__ import annotations

import os

from robustseg.config.errors import is_expected
from robustseg.resume.ending import exit_status, explanation, is_interrupt

_MEASURED = ("what was measured is kept", " to go on")
_CONTINUED = {
    "train": ("the run's checkpoints are kept", " with --ckpt_path last to go on"),
    "merge": ("the shards are as they were", " with another new folder"),
    **dict.fromkeys(("evaluate", "study", "transfer"), _MEASURED),
}
"""The results that an interrupted command leaves, and the arguments to go on with."""


def message_of(command: str, error: BaseException) -> str | None:
    """Return the message of an exception for a user; None if the user needs the traceback.

    Args:
        command: Name of the command that the exception ended.
        error: The exception.
    """
    again = f"run the same command again{_CONTINUED.get(command, ('', ''))[1]}."
    if is_interrupt(error):
        how = "interrupted" if exit_status(error) == 130 else "ended by SIGTERM"
        kept = _CONTINUED.get(command, ("nothing is kept", ""))[0]
        return f"robustseg: {how}: {kept}; {again}"
    if os.environ.get("ROBUSTSEG_TRACEBACK"):
        return None
    if is_expected(error):
        return f"robustseg: error: {error}"
    known = explanation(error)
    return None if known is None else f"robustseg: error: {known} Then {again}"
