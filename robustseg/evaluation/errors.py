"""Exceptions of evaluations and their reports."""

from pathlib import Path

from robustseg.files import not_writable


class EvaluationError(RuntimeError):
    """An evaluation cannot go on, or its folder cannot be used; the message names the file or key and the remedy."""


class IncompleteError(EvaluationError):
    """An evaluation lacks records; other processes may still be measuring them."""


def not_written(path: Path, error: OSError) -> EvaluationError:
    """Return the error for a file beside the records that cannot be written."""
    return EvaluationError(f"{not_writable(path, error)}; all records are kept: run the same command again then.")


class ReportError(ValueError):
    """A result card or a picture cannot be shown; the message names the file or key and the remedy."""
