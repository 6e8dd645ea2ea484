"""JSON, YAML and other trees of plain values, with limits of depth and size."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from robustseg.opening.regular import JSON, read_text

YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Libyaml's parser, or Python's where PyYAML was built without it, which takes four times as long."""
DEEPEST = 100
"""Most levels of objects within one another."""
_MOST = 2**20
"""Most values of a tree, counted as often as they are referred to."""
_MOST_OF_YAML = 2**14
"""Most values of a YAML text, which is a hundred times as slow to parse as JSON."""
_LONG_NUMBER = re.compile(r"[-+]?[0-9][0-9_:.]{4300,}")
"""Number of more digits than Python reads; by 60s, as in 1:30:00, it would take minutes."""


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
                raise _too_deep(deepest)
            alive.append(value)
            waiting.append((value, found))
            waiting += [(each, None) for each in found]
            continue
        parts = [sizes.get(id(each), (1, 0)) for each in found]
        size, depth = 1 + sum(part[0] for part in parts), 1 + max(part[1] for part in parts)
        if size > most:
            raise TreeError(f"it holds more than {most} values, counted as often as they are referred to")
        if depth > deepest:
            raise _too_deep(deepest)
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
        raise _too_deep(DEEPEST) from None
    check_tree(content, most=2 * most)
    return content


def load_yaml(text: str, load: Callable[[str], Any] | None = None) -> Any:
    """Parse YAML text whose values are counted first; references count as what they refer to, for each of them.

    Args:
        text: The text.
        load: Parser of it; by default libyaml's.

    Raises:
        YAMLError: It is no YAML.
        TreeError: Its objects lie too deeply within one another, hold themselves, or are too many.
    """
    try:
        _count(text)
        # an alias (*) needs an anchor (&)
        check_tree(yaml.compose(text, Loader=YAML_LOADER) if "&" in text else None, _nodes)
        content = yaml.load(text, YAML_LOADER) if load is None else load(text)
    except RecursionError:
        raise _too_deep(DEEPEST) from None
    except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError) as error:
        if isinstance(error, TreeError):
            raise
        # from values such as 2001-99-99, or numbers of 5,000 digits
        raise yaml.YAMLError(f"a value is none of its type ({str(error).split(';')[0]})") from error
    check_tree(content)
    return content


def _count(text: str) -> None:
    """Count the values and levels of a YAML text, as far as it can be parsed.

    Raises:
        TreeError: There are too many.
        ValueError: One is a number of thousands of digits.
    """
    values = depth = 0
    try:
        for event in yaml.parse(text, Loader=YAML_LOADER):
            values += isinstance(event, yaml.NodeEvent)
            is_text = not isinstance(event, yaml.ScalarEvent) or event.implicit[1]
            if not is_text and _LONG_NUMBER.fullmatch(event.value):
                raise ValueError(f"a number of {len(event.value):,} signs")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise _too_deep(DEEPEST)
            if values > _MOST_OF_YAML:
                raise TreeError(f"it holds more than {_MOST_OF_YAML:,} values")
    except yaml.YAMLError as error:  # reported by the parser of the text, unless it is libyaml's own limit
        if "nesting depth" in str(error):
            raise _too_deep(DEEPEST) from None


def _too_deep(deepest: int) -> TreeError:
    return TreeError(f"objects lie too deeply within one another, more than {deepest} levels")


def _nodes(node: Any) -> Iterable[object]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else ()
