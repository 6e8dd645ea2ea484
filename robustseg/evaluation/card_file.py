"""Card files: the one reader and the one writer of ``card.json``."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robustseg.evaluation.card import CARD, FORMAT, Card
from robustseg.evaluation.card_upgrade import upgrade_card
from robustseg.evaluation.errors import ReportError
from robustseg.files import write_json
from robustseg.opening.plain import TreeError, read_json
from robustseg.opening.regular import UnfitFile
from robustseg.opening.seal import SEAL, sealed, unsealed
from robustseg.terminal import track

_AGAIN = "evaluate the checkpoint again to get a complete card."
_DEEPEST = 40
"""Largest depth of nested objects; cards have about ten levels."""
_LONGEST_NUMBER = 30
"""Largest number of characters of a number."""
_SHOWN = 60
"""Largest number of characters of a value in a message."""
_KINDS = {
    "string_type": "a string", "int_type": "an integer",
    "float_type": "a share between 0 and 1",
    "greater_than_equal": "a share between 0 and 1", "less_than_equal": "a share between 0 and 1",
    "bool_type": "true or false", "list_type": "a list", "dict_type": "an object", "model_type": "an object",
    "model_attributes_type": "an object",
}  # fmt: skip


def read_card(path: str | os.PathLike[str]) -> Card:
    """Read a result card, of this version or an older one.

    Args:
        path: A ``card.json``, or the folder of an evaluation that holds one.

    Raises:
        ReportError: There is no card, or it is of a newer version, damaged or altered; the message names the file and
            the key.
    """
    file = Path(path)
    if file.is_dir():
        file = file / CARD
    try:
        content = read_json(file, parse_constant=_constant, parse_int=_integer, parse_float=_float)
    except FileNotFoundError:
        raise ReportError(f"{file}: no such file: name the folder of a finished evaluation.") from None
    except UnfitFile as error:
        raise ReportError(f"{error}: name the {CARD} of an evaluation.") from None
    except TreeError as error:
        raise ReportError(f"{file}: {error}: {_AGAIN}") from None
    except OSError as error:
        raise ReportError(f"{file}: cannot be read ({error.strerror or error}).") from error
    except ReportError:
        raise
    except ValueError as error:
        raise ReportError(f"{file} is not valid JSON ({error}): {_AGAIN}") from None
    is_object = isinstance(content, dict)
    card = parse_card({key: content[key] for key in content if key != SEAL} if is_object else content, str(file))
    try:
        unsealed(content)
    except ValueError as error:
        raise ReportError(f"{file}: {error}: {_AGAIN}") from None
    return card


def read_cards(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Card]:
    """Read the cards of several evaluations, by short names: the end of each folder's path that tells them apart.

    Args:
        paths: Folders or card files, each once.

    Raises:
        ReportError: No path is given, one is given twice, or a card cannot be read.
    """
    if not paths:
        raise ReportError("no folder given: name the folder of at least one finished evaluation.")
    folders: list[Path] = []
    for path in paths:
        resolved = Path(path).resolve()
        folder = resolved.parent if resolved.name == CARD else resolved
        if folder in folders:
            raise ReportError(f"{path} is named twice: leave one out.")
        folders.append(folder)
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < len(folders):
        depth += 1
    names = ["/".join(folder.parts[-depth:]) for folder in folders]
    cards = (read_card(path) for path in track(paths, "reading the cards:"))
    return dict(zip(names, cards, strict=True))


def write_card(card: Card, path: str | os.PathLike[str]) -> None:
    """Write a card as JSON in one step: ``path`` holds either its old content or all of the new one."""
    write_json(sealed(card.as_dict()), path)


def parse_card(content: Any, source: str = "card") -> Card:
    """Parse plain JSON as a card, of this version or an older one.

    Args:
        content: Objects, lists, strings, numbers, booleans and None.
        source: Name of the source, for the message.

    Raises:
        ReportError: It is no card, of a newer version, or damaged; the message names the source and the key.
    """
    if not isinstance(content, Mapping) or "format" not in content:
        raise ReportError(f"{source} is no result card (it has no key format): name the {CARD} of an evaluation.")
    version = content["format"]
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ReportError(f"{source}: format = {_short(version)} is no version of a card: {_AGAIN}")
    if version > FORMAT:
        raise ReportError(
            f"{source}: format = {version}, but this version of robustseg reads formats up to {FORMAT}: update "
            "robustseg, or evaluate again."
        )
    _refuse_unwieldy(content, source)
    try:
        return Card.model_validate(upgrade_card(content) if version == 1 else content)
    except ValidationError as error:
        raise ReportError(f"{source}: {_said(error, content)}") from None


class _Unwieldy:
    """A number that a card cannot hold, such as infinity or one with too many characters."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return f"a number of {len(self.text)} characters" if len(self.text) > _LONGEST_NUMBER else self.text


def _constant(text: str) -> Any:
    # Other programs write NaN for figures that do not exist.
    return None if text == "NaN" else _Unwieldy(text)


def _integer(text: str) -> Any:
    return int(text) if len(text) <= _LONGEST_NUMBER else _Unwieldy(text)


def _float(text: str) -> Any:
    value = float(text)
    return value if math.isfinite(value) and len(text) <= _LONGEST_NUMBER else _Unwieldy(text)


def _refuse_unwieldy(content: Any, source: str) -> None:
    """Refuse too deep nesting, and numbers that a card cannot hold.

    Raises:
        ReportError: There is one; the message names the source and the key.
    """
    waiting: list[tuple[Any, tuple[str | int, ...]]] = [(content, ())]
    while waiting:
        value, place = waiting.pop()
        if isinstance(value, _Unwieldy):
            raise ReportError(f"{source}: {_key(place)} = {value!r} is not a finite number of a card: {_AGAIN}")
        if isinstance(value, (Mapping, list)) and len(place) > _DEEPEST:
            raise ReportError(f"{source}: {_key(place[:3])} holds objects too deeply within one another: {_AGAIN}")
        if isinstance(value, Mapping):
            waiting += [(each, (*place, str(key))) for key, each in value.items()]
        elif isinstance(value, list):
            waiting += [(each, (*place, number)) for number, each in enumerate(value)]


def _said(error: ValidationError, content: Any) -> str:
    """Describe the first error of a card in one line."""
    first = error.errors(include_url=False)[0]
    context, kind, value = first.get("ctx", {}), first["type"], first["input"]
    place = _place(first["loc"], content, kind == "missing")
    if kind in ("missing_figure", "bad_figure", "classes"):
        place = (*place, *str(context["key"]).split("."))
        value = context.get("value")
    key = _key(place)
    if kind in ("missing", "missing_figure") or (value is None and kind != "bad_figure" and kind != "classes"):
        return f"key {key} is missing: {_AGAIN}"
    if kind == "classes":
        return f"{key}.class_iou does not have the classes of data.class_names: {_AGAIN}"
    if kind == "extra_forbidden":
        return f"{key} is not one of the keys of a card: {_AGAIN}"
    if kind == "literal_error":
        expected = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        return f"{key} = {_short(value)}: must be one of {expected}."
    what = str(first["msg"]) if kind == "bad_figure" else f"is not {_KINDS.get(kind, 'what stands there in a card')}"
    return f"{key} = {_short(value)} {what}: {_AGAIN}"


def _place(found: Sequence[str | int], content: Any, missing: bool) -> tuple[str | int, ...]:
    """Return the keys to a value, without the type names that pydantic inserts."""
    place: list[str | int] = []
    at = content
    for part in found:
        inside = (isinstance(at, Mapping) and part in at) or (isinstance(at, list) and isinstance(part, int))
        if inside:
            place.append(part)
            at = at[part]
    return (*place, found[-1]) if missing else tuple(place)


def _key(place: Sequence[str | int]) -> str:
    """Write keys as a path, such as ``flags[0].verdict``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_printable(part)}" for part in place)
    return text.removeprefix(".")


def _printable(text: str) -> str:
    shown = text if text.isprintable() else ascii(text)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…"


def _short(value: Any) -> str:
    if isinstance(value, (Mapping, list)) and len(value) > 8:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return _printable(repr(value))
