"""Error messages of the command line: a few lines instead of the list of all options."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from inspect import isabstract
from pathlib import Path
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser
from torch.optim import Optimizer

from robustseg.attacks import Attack, AttackLoss, TargetMap
from robustseg.config.named import completed
from robustseg.config.safety import refused_import
from robustseg.data import SegmentationData
from robustseg.detectors import Detector
from robustseg.models import Network
from robustseg.shipped import ConfigFileError
from robustseg.studies import Study
from robustseg.types import parse_fraction

_SELECTABLE: dict[str, type[Any]] = {
    "attack": Attack,
    "attacks": Attack,
    "data": SegmentationData,
    "detectors": Detector,
    "network": Network,
    "optimizer": Optimizer,
    "loss": AttackLoss,
    "study": Study,
    "target_map": TargetMap,
}
"""Base class of what a key selects, by the key's last part."""


class Parser(LightningArgumentParser):
    """Lightning's parser with short errors that suggest the class that was meant, and files that include others."""

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Parse a file with what it includes, which a saved configuration then holds in full."""
        try:
            text = completed(Path(path))
        except ConfigFileError as error:
            self.error(str(error))
        if text is None:
            return super().parse_path(path, *args, **kwargs)
        return self.parse_string(text, Path(path).name, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and how to get help, and exit with status 2."""
        short = refused_import(message) or _unknown_class(message) or message
        print(f"robustseg: error: {short}\n--help lists all options.", file=sys.stderr)
        sys.exit(2)


def _unknown_class(message: str) -> str | None:
    """A message for a class name that does not exist, where the parser's own error is about one."""
    unknown = re.search(r"Expected a (?:dot import path string:|path but) (\w+)", message)
    if unknown is None:
        return None
    # Of a class within a class the message names both keys: the one in front of the unknown name is meant.
    keys = re.findall(r'Parser key "([\w.]+)"', message[: unknown.start()])
    if not keys:
        return None
    base = _SELECTABLE.get(keys[-1].rpartition(".")[2])
    if base is None:
        return None
    names = sorted(cls.__name__ for cls in _concrete(base))
    near = difflib.get_close_matches(unknown[1], names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{keys[-1]}: there is no class {unknown[1]!r}.{hint} There are: {', '.join(names)}."


def _concrete(base: type[Any]) -> set[type[Any]]:
    """Public subclasses of ``base`` that can be built."""
    found: set[type[Any]] = set()
    for cls in base.__subclasses__():
        found |= _concrete(cls)
        if not isabstract(cls) and not cls.__name__.startswith("_"):
            found.add(cls)
    return found


def keys_of(message: str, config: Mapping[str, Any]) -> str:
    """``"key: "`` for the keys that a constructor's message, ``name = value …``, may be about; else nothing.

    Args:
        message: What the constructor said.
        config: The whole configuration, nested.
    """
    name, _, rest = message.partition(" = ")
    written = rest.partition(" ")[0].rstrip(":;,")
    found = [key for key, value in _leaves(config) if key.rpartition(".")[2] == name and written in _spellings(value)]
    return f"{' or '.join(found)}: " if found else ""


def _spellings(value: object) -> set[str]:
    """How a constructor's message may write a value."""
    try:
        return {str(value), repr(value), str(parse_fraction(str(value)))}
    except ValueError:
        return {str(value), repr(value)}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
