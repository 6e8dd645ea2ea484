"""``robustseg configs``: list, print and copy the configurations of the package."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from robustseg.cli.arguments import Arguments
from robustseg.files import write_text
from robustseg.opening.regular import read_text
from robustseg.shipped import ConfigFileError, about, complete, files, leading_comment
from robustseg.shipped.includes import KEY
from robustseg.shipped.names import plain, unknown
from robustseg.terminal.text import write


def list_configs(args: Sequence[str]) -> int:
    """List the configurations that come with robustseg, print some, or copy them to change them."""
    parser = Arguments("configs", list_configs.__doc__)
    parser.epilog = "--config takes these names wherever it takes a file: robustseg train --config quickstart."
    parser.add_argument("names", nargs="*", metavar="NAME", help="Print these; of a folder, list what is in it.")
    parser.add_argument("--complete", action="store_true", help="Print them with what they include in its place.")
    parser.add_argument("--copy", type=Path, metavar="DIR", help="Copy these, or all, to this folder, complete.")
    options = parser.parse_args(args)
    chosen = _chosen(options.names)
    if options.copy is not None:
        write(f"{_copy(chosen, options.copy)} files copied to {options.copy}.")
    elif all(plain(name) in files() for name in options.names) and options.names:
        write("\n".join(_text(path, options.complete).rstrip() for path in chosen.values()))
    else:
        write("\n".join(_rows(chosen)))
    return 0


def _chosen(names: Sequence[str]) -> Mapping[str, Path]:
    """Return the files of these names, and those in folders of these names; all files without any name.

    Raises:
        ConfigFileError: No file or folder has one of the names.
    """
    chosen: dict[str, Path] = {} if names else dict(files())
    for name in names:
        wanted = plain(name).rstrip("/")
        found = {each: path for each, path in files().items() if each == wanted or each.startswith(f"{wanted}/")}
        if not found:
            raise ConfigFileError(f"{name}: {unknown(name)}")
        chosen |= found
    return chosen


def _rows(chosen: Mapping[str, Path]) -> list[str]:
    rows, folder = [], ""
    for name, path in chosen.items():
        if (parent := name.rpartition("/")[0]) != folder:
            rows.append("")
            folder = parent
        rows += [name, f"    {about(path)}"]
    return [*rows, "", "--config NAME takes one; robustseg configs NAME prints it, --copy DIR NAME copies it."]


def _text(path: Path, filled: bool) -> str:
    """Return a file's text, or with ``filled`` its leading comment and its content with all includes resolved."""
    text = read_text(path)
    if not filled or path.suffix != ".yaml" or not re.search(rf"^{KEY}:", text, re.MULTILINE):
        return text
    head = [f"# {line}".rstrip() for line in leading_comment(path)]
    return "\n".join([*head, yaml.dump(complete(path), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)])


class _Plain(yaml.SafeDumper):  # type: ignore[misc]
    """YAML writer that repeats shared values instead of writing references."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _copy(chosen: Mapping[str, Path], folder: Path) -> int:
    """Copy files with their includes resolved; return their number.

    Raises:
        ConfigFileError: A different file exists at a target, and then none is written, or the folder is not writable.
    """
    targets = {folder / (f"{name}.yaml" if path.suffix == ".yaml" else name): path for name, path in chosen.items()}
    try:
        for target, path in targets.items():
            if target.exists() and read_text(target) != _text(path, filled=True):
                raise ConfigFileError(f"{target} is there already, and different: move it, or name another folder.")
        for target, path in targets.items():
            write_text(_text(path, filled=True), target)
            # a script stays one; an installed file may be read-only, and its copy is not
            target.chmod(target.stat().st_mode | path.stat().st_mode & 0o111)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFileError(f"{folder}: the configurations cannot be copied there ({error}).") from error
    return len(targets)
