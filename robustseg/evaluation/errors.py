"""Exceptions of evaluations and their reports."""

from pathlib import Path


class EvaluationError(RuntimeError):
    """An evaluation cannot go on, or its folder cannot be used; the message names the file or key and the remedy."""


class IncompleteError(EvaluationError):
    """An evaluation lacks records; other processes may still be measuring them."""


def not_written(path: Path, error: OSError) -> EvaluationError:
    """Return the error for a file beside the records that cannot be written."""
    return EvaluationError(
        f"{path}: cannot be written ({error.strerror or error}): all records are kept; make room and run the same "
        "command again."
    )


class ReportError(ValueError):
    """A result card or a picture cannot be shown; the message names the file or key and the remedy."""
