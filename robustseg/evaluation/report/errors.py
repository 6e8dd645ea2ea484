"""What goes wrong when a result is to be shown."""


class ReportError(ValueError):
    """A result card or a picture cannot be shown; the message names the file or key and the remedy."""
