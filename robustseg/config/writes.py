"""Safety check of the places that configuration files write to: below the working directory or the run's root only.

A configuration may come from an untrusted source. Loggers, profilers, callbacks and plugins write to any folder that is
one of their arguments, so these are refused elsewhere unless the command line names the folder: as the option itself,
or with ``--allow_write``.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jsonargparse import Namespace

from robustseg.resume.runs import run_folder

WRITE_OPTION = "--allow_write"

_SECTIONS = ("trainer", "checkpoint", "save", "output", "data.init_args.disk_cache")
"""Keys with places that are written to."""
_NOT_EVALUATED = ("checkpoint", "save")
"""Keys that an evaluation does not use."""
_CACHE = "data.init_args.disk_cache"
_ROOT = "trainer.default_root_dir"
_OF_RUNS = (_ROOT, "experiment", "output")
"""Keys that the folders of runs and evaluations are made of."""


def expanded(place: str) -> str:
    """Replace ``~`` and environment variables, as some loggers do and others do not."""
    return os.path.expanduser(os.path.expandvars(place))


def expand_places(config: Namespace) -> None:
    """Expand the places of runs and evaluations, so that whatever writes there means the same folder.

    Args:
        config: As parsed; changed in place.
    """
    for key in _OF_RUNS:
        if isinstance(place := config.get(key), (str, Path)):
            config[key] = expanded(str(place))


def split_writable(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take ``--allow_write FOLDER`` out of a command line; configuration files cannot contain this option.

    Returns:
        The folders, and the other arguments.
    """
    parser = argparse.ArgumentParser("robustseg", add_help=False, allow_abbrev=False)
    parser.add_argument(WRITE_OPTION, "--allow-write", action="append", default=[], metavar="FOLDER")
    options, rest = parser.parse_known_args(args)
    return options.allow_write, rest


def refused_write(config: Namespace, allowed: Sequence[str], args: Sequence[str], evaluate: bool) -> str | None:
    """Return a message about the first place that a configuration file may not write to; None without one.

    Args:
        config: The parsed configuration, before its objects are built.
        allowed: Folders named by ``--allow_write``.
        args: The other arguments of the command line; what they set themselves is allowed.
        evaluate: The command is an evaluation, which writes no checkpoints.
    """
    root = Path(str(config.trainer.default_root_dir or "."))
    places = [Path(), root, *map(Path, allowed)]
    if config.get("ckpt_path"):
        places.append(run_folder(config.ckpt_path))
    for key, text in _texts(config.as_dict()):
        if not _within(key, _SECTIONS) or key == _ROOT or (evaluate and _within(key, _NOT_EVALUATED)):
            continue
        inside = all(_is_inside(each, places) for each in _readings(text))
        if inside or _is_given(key, text, args) or (key == _CACHE and _is_cache(text)):
            continue
        return (
            f"{key} = {text} lies outside of this folder and of {root}, and a file asks to write there: add "
            f"{WRITE_OPTION} {_folder_of(text)} if you trust it, or give --{key} on the command line."
        )
    return None


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text that looks like a place, with its key."""
    if isinstance(value, (Mapping, Namespace)):
        items = vars(value) if isinstance(value, Namespace) else value
        for name, inner in items.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{key}[{index}]")
    elif isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
        if isinstance(text, str) and any(map(_may_leave, _readings(text))):
            yield key, text


def _readings(text: str) -> tuple[str, str]:
    """Return a place with its environment variables as they are and replaced, since some loggers replace them."""
    return text, os.path.expandvars(text)


def _may_leave(text: str) -> bool:
    return text.startswith(("/", "~", "\\")) or ".." in re.split(r"[/\\]", text) or _scheme(text) is not None


def _scheme(text: str) -> str | None:
    """Return the scheme of an address that files are written to; None for others, such as those of servers."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(?=/)", text)
    return None if found is None or found[1].lower() in ("http", "https", "ws", "wss", "tcp", "env") else found[1]


def _is_inside(text: str, places: Sequence[Path]) -> bool:
    if (scheme := _scheme(text)) is not None and scheme.lower() != "file":
        return any(text.startswith(str(place)) for place in places if _scheme(str(place)))
    place = re.sub("^[Ff][Ii][Ll][Ee]:/+", "/", text)
    wanted = os.path.abspath(os.path.expanduser(place))
    for folder in places:
        for base in (os.path.abspath(os.path.expanduser(folder)), os.path.realpath(os.path.expanduser(folder))):
            if Path(wanted).is_relative_to(base):
                return True
    return False


def _is_given(key: str, text: str, args: Sequence[str]) -> bool:
    """Return whether the command line itself sets a key to a text, and not a file that it names."""
    for argument, following in zip(args, [*args[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        name = option.removeprefix("--").rstrip("+")
        if option.startswith("--") and _within(_plain(key), (_plain(name),)):
            given = value if equals else following
            return given == text or not os.path.isfile(given)
    return False


def _is_cache(text: str) -> bool:
    """Return whether a folder is a cache already: an earlier command was allowed to make it."""
    return any(Path(text).expanduser().glob("samples-v*"))


def _plain(key: str) -> str:
    return re.sub(r"\.(init_args|dict_kwargs)(?=[.\[]|$)", "", key)


def _folder_of(text: str) -> str:
    return text if not Path(text).suffix else os.path.dirname(text) or text


def _within(key: str, keys: Sequence[str]) -> bool:
    return any(key == each or key.startswith((f"{each}.", f"{each}[")) for each in keys)


def allowing(folders: Sequence[str]) -> list[str]:
    """Return the arguments that allow folders in another command line."""
    return [f"{WRITE_OPTION}={folder}" for folder in folders]
