"""Arguments that commands have in common: what is wrong with them is said before anything heavy is imported."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from robustseg.config.suggest import did_you_mean
from robustseg.shipped import ConfigFileError, find


class MissingFile(ValueError):
    """A file that a command line names is not there."""


class Arguments(argparse.ArgumentParser):
    """Parser of a small command, whose errors are short and suggest the option that was meant."""

    def __init__(self, command: str, description: str | None) -> None:
        super().__init__(f"robustseg {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and how to get help, and exit with status 2."""
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        hint = did_you_mean(unknown[1], self._option_string_actions) if unknown else ""
        print(f"robustseg: error: {message}{'.' * bool(hint)}{hint}", file=sys.stderr)
        print(f"{self.prog} --help lists all options.", file=sys.stderr)
        sys.exit(2)


def check_there(paths: Iterable[Path], remedy: str) -> None:
    """Refuse files or folders that do not exist.

    Raises:
        MissingFile: With ``remedy``, what to name in their place.
    """
    for path in paths:
        if not path.exists():
            raise MissingFile(f"{path} does not exist: {remedy}.")


def check_configurations(args: Sequence[str]) -> None:
    """End the process with status 2, as the parser would later, if a configuration does not exist.

    Args:
        args: Those of a command that takes ``--config``, each time with a file, a shipped name, or YAML itself.
    """
    for option, following in zip(args, [*args[1:], None], strict=True):
        name, equals, value = option.partition("=")
        given = value if equals else following
        if name not in ("-c", "--config") or given is None or ":" in given or "{" in given:
            continue
        try:
            find(given, say=lambda line: None)
        except ConfigFileError as error:
            print(f"robustseg: error: {name} {error}", file=sys.stderr)
            sys.exit(2)
