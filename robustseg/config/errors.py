"""Errors that users are meant to see, each as one line; no import of what raises them."""

from __future__ import annotations

_OF_LIBRARIES = ("lightning_fabric.utilities.exceptions.MisconfigurationException",)
"""Exceptions of other packages about wrong user input."""


class ConfigError(ValueError):
    """A value of the configuration was refused by what it configures."""


def cause_of(error: ValueError) -> BaseException:
    """Find what a constructor said: the parser wraps it into a list of the types that it tried."""
    cause: BaseException = error
    while isinstance(cause.__cause__, ValueError):
        cause = cause.__cause__
    return cause


def is_expected(error: BaseException) -> bool:
    """Return whether an exception is about the user's input, so that its message suffices.

    These are the package's own exceptions, recognised by name, since importing each would import everything.
    """
    kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
    return any(kind.startswith("robustseg.") or kind in _OF_LIBRARIES for kind in kinds)
