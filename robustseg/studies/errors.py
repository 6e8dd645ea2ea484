"""The exception of the studies."""

from __future__ import annotations


class StudyError(ValueError):
    """An error in the settings of a study; the message names the remedy."""
