"""JSON, YAML and other trees of plain values, with limits of depth and size."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from robustseg.opening.regular import JSON, read_text

DEEPEST = 100
"""Most levels of objects within one another."""
_MOST = 2**20
"""Most values of a tree, counted as often as they are referred to."""


class TreeError(ValueError):
    """Error for objects that lie too deeply within one another, are too many, or hold themselves."""


def check_tree(
    root: object,
    children: Callable[[Any], Iterable[object]] | None = None,
    deepest: int = DEEPEST,
    most: int = _MOST,
) -> None:
    """Count the values of a tree without recursion; one that is referred to twice counts twice, and is visited once.

    Args:
        root: The tree.
        children: Function from a value to those in it; by default for lists, tuples, sets and mappings.
        deepest: Most levels.
        most: Most values.

    Raises:
        TreeError: There are more, or a value holds itself.
    """
    inside = children or _children
    sizes: dict[int, tuple[int, int]] = {}
    alive: list[object] = []  # an id is that of one object only while this exists
    above: set[int] = set()
    waiting: list[tuple[object, list[object] | None]] = [(root, None)]
    while waiting:
        value, found = waiting.pop()
        key = id(value)
        if found is None:
            if key in sizes:
                continue
            found = list(inside(value))
            if not found:
                continue
            if key in above:
                raise TreeError("an object holds itself")
            above.add(key)
            if len(above) > deepest:
                raise TreeError(f"objects lie too deeply within one another, more than {deepest} levels")
            alive.append(value)
            waiting.append((value, found))
            waiting += [(each, None) for each in found]
            continue
        parts = [sizes.get(id(each), (1, 0)) for each in found]
        size, depth = 1 + sum(part[0] for part in parts), 1 + max(part[1] for part in parts)
        if size > most:
            raise TreeError(f"it holds more than {most} values, counted as often as they are referred to")
        if depth > deepest:
            raise TreeError(f"objects lie too deeply within one another, more than {deepest} levels")
        sizes[key] = size, depth
        above.discard(key)


def _children(value: Any) -> Iterable[object]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, (list, tuple, set, frozenset)) else ()


def read_json(path: str | os.PathLike[str], most: int = JSON, **settings: Any) -> Any:
    """Read a file of JSON.

    Args:
        path: The file.
        most: Most bytes.
        **settings: Further arguments of ``json.loads``.

    Raises:
        OSError: It cannot be read, is no regular file or too large.
        ValueError: It is no JSON in UTF-8, or its objects lie too deeply within one another (:class:`TreeError`).
    """
    text = read_text(path, most)
    try:
        content = json.loads(text, **settings)
    except RecursionError:
        raise TreeError(f"objects lie too deeply within one another, more than {DEEPEST} levels") from None
    check_tree(content, most=2 * most)
    return content


def load_yaml(text: str, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Parse YAML text whose references are counted first, as what they refer to is walked for each of them.

    Args:
        text: The text.
        load: Parser of it.

    Raises:
        YAMLError: It is no YAML.
        TreeError: Its objects lie too deeply within one another, hold themselves, or are too many.
    """
    try:
        # an alias (*) needs an anchor (&)
        check_tree(yaml.compose(text, Loader=yaml.SafeLoader) if "&" in text else None, _nodes)
        content = load(text)
    except RecursionError:
        raise TreeError(f"objects lie too deeply within one another, more than {DEEPEST} levels") from None
    except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError) as error:
        if isinstance(error, TreeError):
            raise
        # from values such as 2001-99-99, or numbers of 5,000 digits
        raise yaml.YAMLError(f"a value is none of its type ({str(error).split(';')[0]})") from error
    check_tree(content)
    return content


def _nodes(node: Any) -> Iterable[object]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else ()
