"""Names of the configurations that come with the package, and the files behind them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from robustseg.opening.regular import TEXT, check_regular, is_stream, read_bytes, read_text
from robustseg.terminal.text import complain

_PACKAGE = Path(__file__).parents[1]
_WIDTH = 100


class ConfigFileError(ValueError):
    """Error for a configuration that does not exist, cannot be read, or has a forbidden include."""


def files() -> Mapping[str, Path]:
    """Return every shipped file by its name, its path in ``configs`` without ``.yaml``; top-level files come first.

    Raises:
        ConfigFileError: The files are neither in the installed package nor beside it, as in the repository.
    """
    return _files(_PACKAGE)


@cache
def _files(package: Path) -> Mapping[str, Path]:
    for root in (package / "configs", package.parent / "configs"):
        if (root / "quickstart.yaml").is_file():
            paths = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
            names = {path.relative_to(root).as_posix().removesuffix(".yaml"): path for path in paths}
            return MappingProxyType(dict(sorted(names.items(), key=lambda item: ("/" in item[0], item[0]))))
    raise ConfigFileError("the configurations were not installed with robustseg: install it again.")


def find(name: str, say: Callable[[str], None] = complain) -> Path:
    """Resolve a name to a file at that path, or else to a shipped file.

    Args:
        name: A path, or the name of a shipped file, also written as ``configs/NAME.yaml``.
        say: Called with a line if both exist and differ.

    Raises:
        ConfigFileError: Neither exists, and the message has the nearest names; or the file is no regular one.
    """
    path, shipped = Path(name), files().get(plain(name))
    if path.exists() and not path.is_dir():
        if is_stream(path):
            return path
        try:
            check_regular(path, TEXT)
            other = shipped is not None and read_bytes(path, TEXT) != read_bytes(shipped, TEXT)
        except OSError as error:
            raise ConfigFileError(f"{name} cannot be read ({error.strerror}): name a file of YAML.") from error
        if other:
            _say_once(f"robustseg: {name} is a file here and a shipped configuration: the file is taken.", say)
        return path
    if shipped is None:
        raise ConfigFileError(f"{name}: {unknown(name)}")
    return shipped


@cache
def _say_once(line: str, say: Callable[[str], None]) -> None:
    say(line)


def is_text(value: str) -> bool:
    """Return True if an argument is the text of a configuration, such as ``{seed_everything: 1}``, and not a name."""
    return any(part in value for part in ("\n", "{", ": "))


def plain(name: str) -> str:
    """Strip a name of the folder and the suffix that it has in the repository."""
    return Path(name).as_posix().removeprefix("configs/").removesuffix(".yaml")


def unknown(name: str) -> str:
    """Return the end of a message about an unknown name, with similar names."""
    wanted, known = plain(name), [each for each, path in files().items() if path.suffix == ".yaml"]
    last = {each: each.rpartition("/")[2] for each in known}
    own = wanted.rpartition("/")[2]
    near = [each for each in known if last[each] == own]
    near += difflib.get_close_matches(wanted, known, n=4, cutoff=0.7)
    near += [each for each in known if last[each] in difflib.get_close_matches(own, last.values(), n=2, cutoff=0.7)]
    nearest = list(dict.fromkeys(near))[:4]
    hint = f"did you mean {', '.join(nearest)}? " if nearest else ""
    return f"neither a file nor a shipped configuration: {hint}robustseg configs lists all."


def leading_comment(path: Path) -> list[str]:
    """Return the comment lines at the beginning of a file, without their marks; in a script, after its first line."""
    found: list[str] = []
    for line in read_text(path).splitlines():
        if line.startswith("#!"):
            continue
        if not line.startswith("#"):
            break
        found.append(line.removeprefix("#").strip())
    return found


def about(path: Path) -> str:
    """Return the beginning of a file's leading comment, as one line."""
    text = " ".join(leading_comment(path))
    return text if len(text) <= _WIDTH else text[: _WIDTH - 2].rpartition(" ")[0] + " …"
