"""Error messages of the command line: a few lines instead of the list of all options."""

from __future__ import annotations

import difflib
import re
import sys
from inspect import isabstract
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser
from torch.optim import Optimizer

from robustseg.attacks import Attack
from robustseg.data import SegmentationDataModule
from robustseg.models import Network

_SELECTABLE: dict[str, type[Any]] = {
    "attack": Attack,
    "attacks": Attack,
    "data": SegmentationDataModule,
    "network": Network,
    "optimizer": Optimizer,
}
"""Base class of what a key selects, by the key's last part."""


class Parser(LightningArgumentParser):
    """Lightning's parser with short errors that suggest the class that was meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and how to get help, and exit with status 2."""
        print(f"robustseg: error: {_unknown_class(message) or message}\n--help lists all options.", file=sys.stderr)
        sys.exit(2)


def _unknown_class(message: str) -> str | None:
    """A message for a class name that does not exist, where the parser's own error is about one."""
    unknown = re.search(r"Expected a (?:dot import path string:|path but) (\w+)", message)
    key = re.search(r'Parser key "([\w.]+)"', message)
    if unknown is None or key is None:
        return None
    base = _SELECTABLE.get(key[1].rpartition(".")[2])
    if base is None:
        return None
    names = sorted(cls.__name__ for cls in _concrete(base))
    near = difflib.get_close_matches(unknown[1], names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{key[1]}: there is no class {unknown[1]!r}.{hint} There are: {', '.join(names)}."


def _concrete(base: type[Any]) -> set[type[Any]]:
    """Public subclasses of ``base`` that can be built."""
    found: set[type[Any]] = set()
    for cls in base.__subclasses__():
        found |= _concrete(cls)
        if not isabstract(cls) and not cls.__name__.startswith("_"):
            found.add(cls)
    return found
