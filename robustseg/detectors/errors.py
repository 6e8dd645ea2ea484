"""The exception of the detectors."""

from __future__ import annotations


class DetectorError(ValueError):
    """An error in a detector's settings or input; the message is one line and names the remedy."""
