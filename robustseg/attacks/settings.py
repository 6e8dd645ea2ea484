"""Settings of an attack: the arguments of its constructor, and copies with other settings."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import types
import typing
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

Own = TypeVar("Own", bound="Configured")


class Checked:
    """Base of objects whose constructor's arguments are numbers and flags of the annotated types.

    Python itself takes ``steps=2.0``, ``steps=True`` and ``steps="10"`` alike, and fails later or not at all.
    """

    def __new__(cls, *args: Any, **settings: Any) -> Any:
        """Refuse arguments of another type than annotated; the constructor itself checks ranges.

        Raises:
            ValueError: An argument is no number or flag of its type, or the seed is none of a generator.
        """
        given = _by_name(cls, args, settings)
        for name, kind in _kinds(typing.cast(Any, cls)).items():
            if name in given and not _fits(given[name], kind):
                raise ValueError(f"{name} = {given[name]!r}: {cls.__name__} takes {_words(kind)} here.")
        seed = given.get("seed")
        if isinstance(seed, Integral) and not 0 <= int(seed) < 2**64:
            raise ValueError(f"seed = {seed}: a seed is a whole number from 0 to 2**64 - 1.")
        return super().__new__(cls)


class Configured(Checked):
    """Base of objects that remember their constructor's arguments, so that a copy can have other settings."""

    _given: dict[str, Any] | None
    """Arguments of the constructor by name; None if the object was changed afterwards."""

    def __new__(cls, *args: Any, **settings: Any) -> Any:
        """Remember the arguments."""
        new = super().__new__(cls, *args, **settings)
        new._given = _by_name(cls, args, settings)
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


def _by_name(cls: type, args: Sequence[Any], settings: dict[str, Any]) -> dict[str, Any]:
    names = list(inspect.signature(cls.__init__).parameters)[1:]  # type: ignore[misc]
    return {**dict(zip(names, args, strict=False)), **settings}


@functools.cache
def _kinds(cls: type) -> dict[str, Any]:
    """Return the annotations of the arguments that :func:`settings_of` names."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base) and base is not object:
            try:
                found = typing.get_type_hints(vars(base)["__init__"]) | found
            except (NameError, TypeError):
                continue  # a stranger's class whose annotations name what is imported for type checkers only
    return {name: found[name] for name in settings_of(cls) if name in found}


def _fits(value: object, kind: Any) -> bool:
    """Return False if ``value`` is no number, flag or list of these as ``kind`` wants; other kinds are not judged."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is bool or kind is type(None):
        return isinstance(value, kind)
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    if origin in (typing.Union, types.UnionType):
        if Path in parts:
            others = [part for part in parts if part not in (str, Path)]
            return isinstance(value, (str, Path)) or any(_fits(value, part) for part in others)
        return any(_fits(value, part) for part in parts)
    if origin not in (tuple, Sequence):
        return True
    if isinstance(value, str):
        return str in (part for one in parts for part in (one, *typing.get_args(one)))
    if not isinstance(value, (list, tuple)):
        # A data set is a sequence as well: nothing is read from it here.
        return hasattr(value, "__getitem__") and hasattr(value, "__len__")
    each = [*value]
    if origin is Sequence or parts[1:] == (...,):
        return all(_fits(one, parts[0]) for one in each)
    return len(each) == len(parts) and all(map(_fits, each, parts))


def _words(kind: Any) -> str:
    """Describe a kind of argument for a message."""
    plain = {int: "a whole number", float: "a number", bool: "true or false", type(None): "None", str: "text"}
    if kind in plain:
        return plain[kind]
    parts = [_words(part) for part in typing.get_args(kind) if part is not ...]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(parts)
    return f"a list of {' and '.join(parts)}" if parts else str(getattr(kind, "__name__", kind))


def _near(name: str, known: Iterable[str]) -> str:
    if name in known:
        return " of its own: it is part of what the attack is."
    near = difflib.get_close_matches(name, known, 1)
    return f": did you mean {near[0]}?" if near else f"; it has {', '.join(known)}."
