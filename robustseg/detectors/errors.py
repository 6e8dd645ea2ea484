"""The one exception of this folder."""

from __future__ import annotations


class DetectorError(ValueError):
    """A detector, its settings or its input do not fit; the message is one line and names the remedy."""
