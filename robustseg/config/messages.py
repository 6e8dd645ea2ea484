"""Error messages of the command line: a few lines instead of the list of all options."""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from inspect import isabstract
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import Logger
from torch.optim import Optimizer
from yaml import YAMLError

from robustseg.attacks import Attack, AttackLoss, TargetMap
from robustseg.config.help import HelpFormatter, arrange
from robustseg.config.logger_arguments import FOLDERS
from robustseg.config.named import completed
from robustseg.config.safety import refused_import
from robustseg.data import SegmentationData
from robustseg.detectors import Detector
from robustseg.models import Network
from robustseg.shipped import ConfigFileError
from robustseg.shipped.includes import KEY
from robustseg.shipped.once import TwiceError, refuse_twice
from robustseg.shipped.suggest import did_you_mean
from robustseg.studies import Study
from robustseg.terminal.text import complain
from robustseg.types import parse_fraction

_SELECTABLE: dict[str, type[Any]] = {
    "attack": Attack,
    "attacks": Attack,
    "data": SegmentationData,
    "detectors": Detector,
    "logger": Logger,
    "network": Network,
    "optimizer": Optimizer,
    "loss": AttackLoss,
    "study": Study,
    "target_map": TargetMap,
}
"""Base class of what a key selects, by the key's last part."""

_UNKNOWN_OPTION = (
    r"Option '([\w.]+)' is not accepted$",
    r"Group '(\w+)' does not accept option '([\w.]+)'$",
    r"unrecognized arguments: (--[\w.]+)",
)
"""Patterns of the parser's messages about unknown options."""


class Parser(LightningArgumentParser):
    """Lightning's parser with short errors and suggestions, help that begins with the package's own options, and files
    that include others."""

    given: Namespace | None = None
    """Settings of the last command line and its files, without the defaults of their classes."""
    _completed: str | None = None
    """Text of the file that is being parsed, with its includes; within ``parse_path`` its own paths are found."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # With abbreviations, a typing error could be taken for another option.
        super().__init__(*args, **{"formatter_class": HelpFormatter, **kwargs, "allow_abbrev": False})

    def add_class_arguments(self, theclass: Any, *args: Any, **kwargs: Any) -> Any:
        """Add the arguments of a class; a logger need not be told where to write, since that is the run's folder."""
        added = super().add_class_arguments(theclass, *args, **kwargs)
        if isinstance(theclass, type) and issubclass(theclass, Logger):
            for action in self._actions:
                if action.dest in FOLDERS:
                    action.required = False
        return added

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Format the help text, with its groups in order."""
        arrange(self)
        return str(super().format_help(formatter))

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Parse a file with the files that it includes; a saved configuration then holds their content."""
        try:
            text = completed(Path(path))
        except ConfigFileError as error:
            self.error(str(error))
        self._completed = text
        return super().parse_path(path, *args, **kwargs)

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Any:
        """Parse the text of a file, with its includes if :meth:`parse_path` has found any."""
        text, self._completed = self._completed, None
        self._refuse_twice(content if text is None else text)
        return super().parse_string(content if text is None else text, *args, **kwargs)

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        """Parse the command line; values in the form of YAML are looked at as files are."""
        for argument in args or ():
            option, equals, value = str(argument).partition("=")
            text = value if equals and option.startswith("-") else str(argument)
            if text.lstrip().startswith(("{", "[")):
                self._refuse_twice(text)
        return super().parse_args(args, *more, **kwargs)

    def _refuse_twice(self, text: str) -> None:
        try:
            refuse_twice(text)
        except TwiceError as error:
            self.error(f"{error}.")
        except YAMLError:
            pass  # the parser's own message says where

    def _parse_common(self, cfg: Namespace, *args: Any, **kwargs: Any) -> Namespace:
        """Finish what was parsed, as the parser does for each of its ways to parse."""
        self.given = cfg.clone()
        return super()._parse_common(cfg, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and how to get help, and exit with status 2.

        Raises:
            ArgumentError: This is the parser of a class's arguments; its caller knows the key, and exits.
        """
        message = f"{message}{self._hint(message)}"
        if not self.exit_on_error:
            raise argparse.ArgumentError(None, message) from ex
        short = refused_import(message) or _unknown_class(message) or _in_class(message) or _linked(message) or message
        complain(f"robustseg: error: {short}\n--help lists all options.")
        sys.exit(2)

    def _hint(self, message: str) -> str:
        """Suggest the nearest option in reply to a message about an unknown one; otherwise return an empty string."""
        for pattern in _UNKNOWN_OPTION:
            if found := re.match(pattern, message):
                given = ".".join(found.groups())
                if given.rpartition(".")[2] == KEY:
                    return f": {KEY} stands at the top of a file that --config names."
                # keys in files have no leading hyphens
                known = (name if given.startswith("--") else name.lstrip("-") for name in self._option_string_actions)
                return f".{did_you_mean(given, known)}"
        return ""


def _linked(message: str) -> str | None:
    """Shorten a message about an option that takes its value from another one; None for other messages."""
    found = re.match(r"argument (\S+) --> (\S+): .* is not callable", message)
    return found and f"{found[2]} is that of the data, {found[1]}: leave it out."


def _in_class(message: str) -> str | None:
    """Shorten a message about an argument of a class to that class; return None for other messages.

    The parser's own message also lists all alternatives that it tried.
    """
    problems = list(re.finditer(r"^( *).*Problem with given class_path '([\w.]+)':\n", message, re.MULTILINE))
    if not problems:
        return None
    indent, path = problems[-1].groups()
    lines = message[problems[-1].end() :].splitlines()
    own = list(takewhile(lambda line: line.startswith(f"{indent} "), lines))
    keys = re.findall(r'Parser key "([\w.]+)"', message[: problems[-1].start()])
    return f"{'.'.join(keys)}: {path.rpartition('.')[2]}: {textwrap.dedent(chr(10).join(own))}"


def _unknown_class(message: str) -> str | None:
    """Shorten a message about an unknown class, and list the known ones; return None for other messages."""
    unknown = re.search(r"Expected a (?:dot import path string:|path but) ([\w.]*\w)", message)
    if unknown is None:
        return None
    # For a class within a class the message names both keys; the key before the unknown name is the right one.
    keys = re.findall(r'(?:Parser key "|^--)([\w.]+?)(?:"|\.help:)', message[: unknown.start()])
    if not keys:
        return None
    base = _SELECTABLE.get(keys[-1].rpartition(".")[2])
    if base is None:
        return None
    names = sorted(cls.__name__ for cls in _concrete(base))
    return (
        f"{keys[-1]}: there is no class {unknown[1]!r}.{did_you_mean(unknown[1], names)} There are: {', '.join(names)}."
    )


def _concrete(base: type[Any]) -> set[type[Any]]:
    """Collect the public subclasses of ``base`` that are not abstract."""
    found: set[type[Any]] = set()
    for cls in base.__subclasses__():
        found |= _concrete(cls)
        if not isabstract(cls) and not cls.__name__.startswith("_"):
            found.add(cls)
    return found


def keys_of(message: str, config: Mapping[str, Any]) -> str:
    """Return ``"key: "`` for the keys that a constructor's message, ``name = value …``, may be about.

    Args:
        message: The constructor's message.
        config: The whole configuration, nested.

    Returns:
        The keys, joined by "or"; empty if there are none.
    """
    name, _, rest = message.partition(" = ")
    written = rest.partition(" ")[0].rstrip(":;,")
    found = [key for key, value in _leaves(config) if key.rpartition(".")[2] == name and written in _spellings(value)]
    return f"{' or '.join(found)}: " if found else ""


def _spellings(value: object) -> set[str]:
    """Return the possible spellings of a value in a constructor's message."""
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
