"""Common arguments of the commands, with errors before heavy imports."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from robustseg.shipped import ConfigFileError, find
from robustseg.shipped.names import is_text
from robustseg.shipped.suggest import did_you_mean
from robustseg.terminal.text import complain


class MissingFile(ValueError):
    """Error for a file on the command line that does not exist."""


class Arguments(argparse.ArgumentParser):
    """Parser of a small command, with short errors that suggest the intended option."""

    def __init__(self, command: str, description: str | None) -> None:
        super().__init__(f"robustseg {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Print the error and a hint to the help, and exit with status 2."""
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        hint = did_you_mean(unknown[1], self._option_string_actions) if unknown else ""
        complain(f"robustseg: error: {message}{'.' * bool(hint)}{hint}")
        complain(f"{self.prog} --help lists all options.")
        sys.exit(2)


def check_there(paths: Iterable[Path], remedy: str) -> None:
    """Refuse files or folders that do not exist.

    Raises:
        MissingFile: One does not exist; the message ends with ``remedy``.
    """
    for path in paths:
        if not path.exists():
            raise MissingFile(f"{path} does not exist: {remedy}.")


def check_configurations(args: Sequence[str]) -> None:
    """Exit with status 2, as the parser would later, if a configuration does not exist.

    Args:
        args: Arguments of a command with ``--config`` options, each a file, a shipped name, or YAML text.
    """
    for option, following in zip(args, [*args[1:], None], strict=True):
        name, equals, value = option.partition("=")
        given = value if equals else following
        if name not in ("-c", "--config") or given is None or is_text(given):
            continue
        try:
            find(given, say=lambda line: None)
        except ConfigFileError as error:
            complain(f"robustseg: error: {name} {error}")
            sys.exit(2)
