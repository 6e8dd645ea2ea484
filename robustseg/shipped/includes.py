"""Configuration files that include others: ``include: [network/pspnet_r50, mine.yaml]`` at the top of a file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from robustseg.opening.plain import TreeError, load_yaml
from robustseg.opening.regular import read_text
from robustseg.shipped.names import ConfigFileError, files, plain, unknown
from robustseg.shipped.once import TwiceError, refuse_twice

KEY = "include"
_CLASS, _ARGUMENTS = "class_path", ("init_args", "dict_kwargs")
_MOST = 1000
"""Most files that a configuration reads, counted as often as they are included."""


def complete(
    path: Path,
    load: Callable[[str], Any] = yaml.safe_load,
    above: tuple[Path, ...] = (),
    count: Iterator[int] | None = None,
) -> dict[str, Any]:
    """Read a configuration with its includes: later ones override earlier ones key by key, its own keys override all.

    A file may include shipped files by name, and files in its own folder or below by their relative path. Other paths
    are refused, so that a configuration from an untrusted source cannot read further files of the user.

    Args:
        path: A YAML file.
        load: Parser of the text into keys and values.
        above: Files that are being read and include this one.
        count: Counter of the files that were read.

    Raises:
        ConfigFileError: The file or an include is missing, not YAML, outside of the folder, or includes itself; or
            there are too many.
    """
    count = count or itertools.count(1)
    path = path.resolve()
    if next(count) > _MOST:
        raise ConfigFileError(f"{(above or (path,))[0]}: {KEY} leads to more than {_MOST} files: include fewer.")
    if path in above:
        chain = " → ".join(str(each) for each in (*above[above.index(path) :], path))
        raise ConfigFileError(f"{KEY}: a file includes itself: {chain}.")
    own = read(path, load)
    merged: dict[str, Any] = {}
    for entry in _entries(path, own.pop(KEY, [])):
        merged = merge(merged, complete(_locate(path, entry), load, (*above, path), count))
    return merge(merged, own)


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``top`` over ``base``; if the class changes, the arguments of the old class are dropped.

    Lists are replaced as a whole; mappings are merged, also those of names such as ``robustness.attacks``.
    """
    merged = {key: value for key, value in base.items() if not (key in _ARGUMENTS and _other_class(base, top))}
    for key, value in top.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _other_class(base: Mapping[str, Any], top: Mapping[str, Any]) -> bool:
    """Return whether both name a class and the classes differ; PSPNet is robustseg.models.PSPNet."""
    old, new = base.get(_CLASS), top.get(_CLASS)
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    return not f".{old}".endswith(f".{new}") and not f".{new}".endswith(f".{old}")


def read(path: Path, load: Callable[[str], Any] = yaml.safe_load) -> dict[str, Any]:
    """Read the keys and values of one file, without those that it includes.

    Raises:
        ConfigFileError: The file cannot be read, is no YAML, has a key twice, or holds something else.
    """
    text = ""
    try:
        text = read_text(path)
        content = load_yaml(text, load)
        refuse_twice(text)
    except TwiceError as error:
        raise ConfigFileError(f"{path}: {error}.") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError, TreeError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        tabs = " Indent with spaces: YAML takes no tabs." if re.search(r"^ *\t", text, re.MULTILINE) else ""
        raise ConfigFileError(f"{path} cannot be read as YAML: {reason}.{tabs}") from error
    if not isinstance(content, dict):
        raise ConfigFileError(f"{path} holds {type(content).__name__}; expected keys with values, such as model: …")
    return content


def _entries(path: Path, value: object) -> list[str]:
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return value
    raise ConfigFileError(
        f"{path}: {KEY} is {value!r}; expected a list of names or files, such as [network/pspnet_r50, mine.yaml]."
    )


def _locate(path: Path, entry: str) -> Path:
    """Return the file of an ``include`` entry of ``path``."""
    inner = (path.parent / entry).resolve()
    if not inner.is_relative_to(path.parent):
        raise ConfigFileError(
            f"{path}: {KEY}: {entry} is outside of this file's folder: name a shipped configuration, or copy it there."
        )
    if inner.suffix in (".yaml", ".yml") and inner.is_file():
        return inner
    if (shipped := files().get(plain(entry))) is not None and shipped.suffix == ".yaml":
        return shipped
    raise ConfigFileError(f"{path}: {KEY}: {entry}: {unknown(entry)}")
