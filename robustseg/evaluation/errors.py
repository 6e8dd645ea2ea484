"""Exceptions of evaluations and their reports."""


class EvaluationError(RuntimeError):
    """An evaluation cannot go on, or its folder cannot be used; the message names the file or key and the remedy."""


class IncompleteError(EvaluationError):
    """An evaluation lacks records; other processes may still be measuring them."""


class ReportError(ValueError):
    """A result card or a picture cannot be shown; the message names the file or key and the remedy."""
