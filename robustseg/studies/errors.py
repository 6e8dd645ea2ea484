"""The one exception of the studies."""

from __future__ import annotations


class StudyError(ValueError):
    """A study cannot be run as it was asked for; the message names the remedy."""
