"""Tables of classes in YAML files."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from robustseg.data.errors import DataError, not_permitted
from robustseg.data.masks import RGB
from robustseg.opening.plain import YAML_LOADER, TreeError, load_yaml
from robustseg.opening.regular import read_text
from robustseg.shipped.once import refuse_twice
from robustseg.types import IGNORE_INDEX

_KEYS = ("name", "id", "colour", "ignore")
_LARGEST = 65535


class ClassRow(NamedTuple):
    """One row of a table."""

    name: str
    ids: tuple[int, ...]
    """Ids of the class in the mask files, one or more."""
    colours: tuple[RGB, ...]
    """Colours of the class, the first of which is that of pictures."""
    ignore: bool
    """True for a class with ignored pixels."""


def read_class_table(path: Path) -> list[ClassRow]:
    """Read a table: a list of rows under ``classes``.

    Each row has a ``name``, the ``id`` in the mask files (0 to 65535), the ``colour`` as [red, green, blue] from 0 to
    255 and optionally ``ignore: true`` for ignored pixels. Several ids or colours that are one class are a list, such
    as ``id: [1, 2]``. Classes are numbered in the order of the rows that count.

    Raises:
        DataError: It is missing or no YAML, has no class or too many, or a row lacks a key, has an unknown or ill-typed
            one, or repeats another's name, id or colour. The message names the row.
    """
    rows = [_row(path, number, row) for number, row in enumerate(_entries(path), start=1)]
    _check_unique(
        path, "name", [(row.name,) for row in rows], "write one row with id: [1, 2] for a class of several ids"
    )
    _check_unique(path, "id", [row.ids for row in rows], "an id is one class; change one of them")
    _check_unique(path, "colour", [row.colours for row in rows], "change one of them")
    kept = sum(not row.ignore for row in rows)
    if not 1 <= kept <= IGNORE_INDEX:
        raise DataError(f"{path}: {kept} classes are not ignored; expected 1 to {IGNORE_INDEX}.")
    return rows


def _check_unique(path: Path, key: str, values: Sequence[Sequence[Any]], remedy: str) -> None:
    """Check that no value stands in two rows, nor twice in one.

    Raises:
        DataError: One does.
    """
    first: dict[Any, int] = {}
    for number, row in enumerate(values, start=1):
        for value in row:
            if (other := first.get(value)) is not None:
                shown = list(value) if isinstance(value, tuple) else value
                where = f"rows {other} and {number} have the same" if other != number else f"row {number} has twice the"
                raise DataError(f"{path}: {where} {key} {shown!r}: {remedy}.")
            first[value] = number


def _entries(path: Path) -> Sequence[Any]:
    try:
        text = read_text(path)
        content = load_yaml(text)
        refuse_twice(text)
        _refuse_octal(text)
    except (yaml.YAMLError, UnicodeDecodeError, TreeError) as error:
        raise DataError(f"{path} is no YAML ({' '.join(str(error).split())}): correct it.") from error
    except PermissionError as error:
        raise not_permitted(path) from error
    except OSError as error:
        raise DataError(
            f"class table {path} cannot be read ({error.strerror}): set data.classes to the file."
        ) from error
    rows = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise DataError(
            f"{path} has no list of classes: write classes: and below it rows such as "
            "- {name: road, id: 0, colour: [128, 64, 128]}."
        )
    return rows


def _refuse_octal(text: str) -> None:
    """Refuse numbers with a zero before them, such as the colour [064, 000, 128].

    Raises:
        YAMLError: There is one.
    """
    for token in yaml.scan(text, Loader=YAML_LOADER):
        if isinstance(token, yaml.ScalarToken) and token.plain and re.fullmatch("0[0-7_]+", token.value):
            line, value = token.start_mark.line + 1, int(token.value.replace("_", ""), 8)
            if value:
                raise yaml.YAMLError(
                    f"line {line} has {token.value[:80]}, which is {_shown(value)} in YAML: leave the zero out"
                )


def _row(path: Path, number: int, row: Any) -> ClassRow:
    if not isinstance(row, dict):
        raise DataError(f"{path}: row {number} is {_shown(row)}; expected {{name: ..., id: ..., colour: [r, g, b]}}.")
    for key in row:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            did_you_mean = f"did you mean {near[0]}?" if near else f"a row has {', '.join(_KEYS)}."
            raise DataError(f"{path}: row {number} has the unknown key {_shown(key)}: {did_you_mean}")
    for key in _KEYS[:3]:
        if key not in row:
            raise DataError(f"{path}: row {number} ({row.get('name', 'without name')}) has no {key}: add it.")
    name, label, colour, ignore = row["name"], row["id"], row["colour"], row.get("ignore", False)
    where = f"{path}: row {number} ({name})"
    if not isinstance(name, str) or not name.strip():
        raise DataError(
            f"{path}: row {number} has the name {_shown(name)}: write a text, in quotes where YAML needs them."
        )
    ids = label if isinstance(label, list) and label else [label]
    if not all(_is_number(value, _LARGEST) for value in ids):
        raise DataError(
            f"{where} has the id {_shown(label)}: write a whole number from 0 to {_LARGEST}, or a list of them."
        )
    colours = colour if isinstance(colour, list) and colour and isinstance(colour[0], list) else [colour]
    for each in colours:
        if not isinstance(each, list) or len(each) != 3 or not all(_is_number(value, 255) for value in each):
            raise DataError(f"{where} has the colour {_shown(each)}: write [red, green, blue], each from 0 to 255.")
    if not isinstance(ignore, bool):
        raise DataError(f"{where} has ignore: {_shown(ignore)}: write true or false.")
    return ClassRow(name.strip(), tuple(ids), tuple((red, green, blue) for red, green, blue in colours), ignore)


def _is_number(value: Any, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= largest


def _shown(value: object) -> str:
    """Return a value for a message, cut at 80 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python writes out no integers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
