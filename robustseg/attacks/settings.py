"""Settings of an attack: the arguments of its constructor, and copies with other settings."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable
from typing import Any, TypeVar

Own = TypeVar("Own", bound="Configured")


class Configured:
    """Base of objects that remember their constructor's arguments, so that a copy can have other settings."""

    _given: dict[str, Any] | None
    """Arguments of the constructor by name; None if the object was changed afterwards."""

    def __new__(cls, *args: Any, **settings: Any) -> Any:
        """Remember the arguments; the constructor itself checks them."""
        new = super().__new__(cls)
        names = list(inspect.signature(cls.__init__).parameters)[1:]
        new._given = {**dict(zip(names, args, strict=False)), **settings}
        return new

    def replace(self: Own, **changes: Any) -> Own:
        """Make a copy with other settings: ``SegPGD(steps=3).replace(steps=20, eps="4/255")``.

        The copy goes through the constructor, and so through all of its checks. Attributes that were set by hand are
        not copied.

        Args:
            **changes: Arguments of the constructor.

        Raises:
            TypeError: The constructor has no such argument, or the object was changed after its construction.
            ValueError: The constructor refuses a value, or the combination.
        """
        name = type(self).__name__
        if self._given is None:
            raise TypeError(f"this {name} was changed after its construction: replace its settings before that.")
        try:
            return type(self)(**{**self._given, **changes})
        except TypeError as error:
            refused = re.search(r"argument '(\w+)'", str(error))
            if refused is None or refused[1] not in changes:
                raise
            near = _near(refused[1], settings_of(type(self)))
            raise TypeError(f"{name} has no setting {refused[1]}{near}") from error


def settings_of(cls: type) -> dict[str, Any]:
    """Return the arguments of a constructor and those that it passes to its bases as ``**options``, with defaults.

    An argument without a default has ``inspect.Parameter.empty``.
    """
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
        found = {each.name: each.default for each in named} | found
        if all(each.kind != each.VAR_KEYWORD for each in parameters):
            break
    return found


def _near(name: str, known: Iterable[str]) -> str:
    if name in known:
        return " of its own: it is part of what the attack is."
    near = difflib.get_close_matches(name, known, 1)
    return f": did you mean {near[0]}?" if near else f"; it has {', '.join(known)}."
