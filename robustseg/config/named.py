"""Configuration files on the command line: found by their names, and read with the files that they include."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, get_loader, set_loader  # type: ignore[attr-defined]
from jsonargparse import Path as ParsersPath  # type: ignore[attr-defined]
from lightning_fabric.utilities.rank_zero import rank_zero_only

from robustseg.opening.plain import TreeError, load_yaml
from robustseg.opening.regular import is_stream, read_stream, read_text
from robustseg.shipped import ConfigFileError, complete, find
from robustseg.shipped.includes import KEY, read
from robustseg.shipped.names import is_text
from robustseg.terminal.text import complain


class ConfigFile(ActionConfigFile):
    """The option ``--config``: a file, the name of a shipped configuration, or the text of one."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Find the file, and parse it; an unknown name ends the process with an error message."""
        try:
            path = values if is_text(values) else str(find(values, _say))
        except ConfigFileError as error:
            parser.error(f"--config {error}")
        super().__call__(parser, cfg, path, option_string)  # type: ignore[no-untyped-call]


_say = rank_zero_only(complain)


def completed(path: Path) -> str | None:
    """Return the text of a file, with included files inserted; None if it includes nothing.

    Raises:
        ConfigFileError: The file is no YAML, or an included file cannot be used.
    """
    if is_stream(path) or KEY not in read(path, get_loader("yaml")):
        return None
    return yaml.dump(complete(path, get_loader("yaml")), Dumper=_Quoting, sort_keys=False)  # type: ignore[no-any-return]


def limit_files() -> None:
    """Let the parser read regular files of YAML only, for the rest of this process, wherever a value may be a file.

    A pipe of the command line, such as ``<(command)``, is read as well. References in YAML are counted.
    """
    ParsersPath.read_text = _read_text  # type: ignore[method-assign,assignment]
    set_loader("yaml", _load, (yaml.YAMLError, TreeError))


_parsers_read_text, _parsers_load = ParsersPath.read_text, get_loader("yaml")


def _read_text(path: Any) -> str:
    place = path.absolute
    if path.is_url or path.is_fsspec or not os.path.exists(place):  # or standard input, "-"
        return str(_parsers_read_text(path))
    return read_stream(place) if is_stream(place) else read_text(place)


def _load(text: str) -> Any:
    return load_yaml(text, _parsers_load)


class _Quoting(yaml.SafeDumper):  # type: ignore[misc]
    """A YAML dumper that quotes every string, since the parser's loader takes more strings for numbers than YAML's."""


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
