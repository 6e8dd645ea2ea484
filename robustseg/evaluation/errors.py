"""What goes wrong in an evaluation."""


class EvaluationError(RuntimeError):
    """An evaluation cannot go on, or its folder cannot be used; the message names the file or key and the remedy."""


class IncompleteError(EvaluationError):
    """Not everything is measured yet; other processes may be at it."""


class ReportError(ValueError):
    """A result card or a picture cannot be shown; the message names the file or key and the remedy."""
