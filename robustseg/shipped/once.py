"""Keys that stand twice in a YAML text, of which YAML would take the last one without a word."""

from __future__ import annotations

import yaml

from robustseg.opening.plain import YAML_LOADER


class TwiceError(yaml.YAMLError):  # type: ignore[misc]
    """Error for a key that is given twice."""


def refuse_twice(text: str) -> None:
    """Refuse a text with a key that stands twice in one mapping, at any depth.

    Raises:
        TwiceError: There is one; the message names it and both lines.
        YAMLError: The text is no YAML.
    """
    _walk(yaml.compose(text, Loader=YAML_LOADER), "", set())


def _walk(node: yaml.Node | None, prefix: str, seen: set[int]) -> None:
    if node is None or id(node) in seen:  # an alias leads to a node that was walked, or is above
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for place, entry in enumerate(node.value):
            _walk(entry, f"{prefix}[{place}]", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, value in node.value:
            key = f"{prefix}.{name.value}" if prefix else str(name.value)
            line = name.start_mark.line + 1
            if isinstance(name, yaml.ScalarNode) and name.tag != "tag:yaml.org,2002:merge":
                if name.value in lines:
                    raise TwiceError(f"{key} is given twice, in lines {lines[name.value]} and {line}: leave one out")
                lines[name.value] = line
            _walk(value, key, seen)
