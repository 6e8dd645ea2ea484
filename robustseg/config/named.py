"""Configuration files on the command line: found by their names, and read with what they include."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, get_loader  # type: ignore[attr-defined]
from lightning_fabric.utilities.rank_zero import rank_zero_only

from robustseg.shipped import ConfigFileError, complete, find
from robustseg.shipped.includes import KEY


class ConfigFile(ActionConfigFile):
    """The option ``--config``: a file, the name of a shipped configuration, or the text of one."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Find the file, and parse it."""
        try:
            path = values if _is_text(values) else str(find(values, _say))
        except ConfigFileError as error:
            parser.error(f"--config {error}")
        super().__call__(parser, cfg, path, option_string)  # type: ignore[no-untyped-call]


def _is_text(value: str) -> bool:
    """Whether an argument is a configuration itself, as ``{seed_everything: 1}``, and not the name of one."""
    return any(part in value for part in ("\n", "{", ": "))


_say = rank_zero_only(partial(print, file=sys.stderr, flush=True))


def completed(path: Path) -> str | None:
    """The text of a file with what it includes in its place; None where it includes nothing.

    Raises:
        ConfigFileError: What it includes cannot be used.
    """
    # A pipe could be read once only.
    if not path.is_file() or KEY not in path.read_text(encoding="utf-8", errors="replace"):
        return None
    return yaml.dump(complete(path, get_loader("yaml")), Dumper=_Quoting, sort_keys=False)  # type: ignore[no-any-return]


class _Quoting(yaml.SafeDumper):  # type: ignore[misc]
    """Writes every text in quotes: the parser's loader takes more of them for numbers than YAML's own."""


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
