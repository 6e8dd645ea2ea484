"""Folders and lists of samples in text files, with checks and clear errors."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from robustseg.data.errors import DataError, not_permitted
from robustseg.opening.regular import LIST, read_text

_MOST_WAYS = 100
"""Most ways through links to one folder."""
_DEEPEST = 100
"""Most folders within one another."""


def is_folder(path: Path) -> bool:
    """Return True for an existing folder, or a link to one.

    Raises:
        DataError: Permissions forbid access.
    """
    return stat.S_ISDIR(_mode(path))


def is_file(path: Path) -> bool:
    """Return True for an existing file, or a link to one.

    Raises:
        DataError: Permissions forbid access.
    """
    return stat.S_ISREG(_mode(path))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except PermissionError as error:
        raise not_permitted(path) from error
    except (OSError, ValueError):
        return 0


def listed(folder: Path) -> list[Path]:
    """Return the contents of a folder, in order.

    Raises:
        DataError: Permissions forbid listing it.
    """
    try:
        return sorted(folder.iterdir())
    except PermissionError as error:
        raise not_permitted(folder) from error


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, in order, links followed; hidden files and folders are left out.

    A link to one of the folders above it is skipped, since its contents are found anyway.

    Raises:
        DataError: Permissions forbid listing one of the folders, or links lead to too many.
    """
    return sorted(_below(folder, (os.path.realpath(folder),), Counter()))


def _below(folder: Path, above: tuple[str, ...], seen: Counter[str]) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            found = [
                # a link may be broken, or point to itself
                (Path(entry.path), is_folder(Path(entry.path)) if entry.is_symlink() else entry.is_dir())
                for entry in entries
                if not entry.name.startswith(".")
            ]
    except PermissionError as error:
        raise not_permitted(folder) from error
    for path, is_a_folder in found:
        if not is_a_folder:
            yield path
        elif (real := os.path.realpath(path)) not in above:
            seen[real] += 1
            if seen[real] > _MOST_WAYS or len(above) > _DEEPEST:
                raise DataError(
                    f"{path}: links lead to this folder in more than {_MOST_WAYS} ways, or it lies more than "
                    f"{_DEEPEST} folders deep: remove links, or name a folder without them."
                )
            yield from _below(path, (*above, real), seen)


def in_either_case(path: Path) -> Path:
    """Return ``path``, or the same name with its suffix in capitals if only that exists, such as ``x.JPG``."""
    capitals = path.with_name(path.stem + path.suffix.upper())
    return capitals if not is_file(path) and is_file(capitals) else path


def examples(names: Iterable[str]) -> str:
    """List the first three names, and the number of the others."""
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")


def existing_folder(folder: Path, layout: str) -> Path:
    """Return ``folder`` if it exists.

    Args:
        folder: The folder that must exist.
        layout: The expected folders in words, for the message.

    Raises:
        DataError: It does not exist, exists in another case, or permissions forbid access.
    """
    if is_folder(folder):
        return folder
    if (other := _in_another_case(folder)) is not None:
        raise DataError(
            f"{folder} is not a folder but {other} is: rename {other.name} to {_name_there(folder, other)}."
        )
    raise DataError(f"{folder} is not a folder; expected {layout}.")


def _name_there(folder: Path, other: Path) -> str:
    return folder.parts[len(other.parts) - 1]


def _in_another_case(folder: Path) -> Path | None:
    """Find the folder that differs from the first missing part of a path only in case; None without one."""
    for path in [folder, *folder.parents]:
        if is_folder(path.parent):
            names = (entry for entry in listed(path.parent) if is_folder(entry))
            return next((entry for entry in names if entry.name.lower() == path.name.lower()), None)
    return None


def first_folder(candidates: list[Path], root: Path, layout: str) -> Path:
    """Return the first of ``candidates`` that exists.

    Raises:
        DataError: None exists; the message is about ``root`` itself if that is missing.
    """
    for candidate in candidates:
        if is_folder(candidate):
            return candidate
    existing_folder(root, layout)
    for candidate in candidates:
        if _in_another_case(candidate) is not None:
            existing_folder(candidate, layout)
    names = " and no ".join(candidate.relative_to(root).as_posix() for candidate in candidates if candidate != root)
    raise DataError(f"{root} holds no {names}; expected {layout}.")


def read_list(path: Path, paths: bool = False, nested: bool = False) -> list[str]:
    """Read names of samples, one per line; blank lines and Windows line ends are ignored.

    Args:
        path: A text file.
        paths: A line may also be the paths of an image and its mask, with the sample's name in common.
        nested: Names may have folders and spaces, and lines that begin with # are comments.

    Raises:
        DataError: The file is missing, no UTF-8 text or empty, or a line is not a plain name or occurs twice.
    """
    try:
        text = read_text(path, LIST, "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: replace it.") from error
    except PermissionError as error:
        raise not_permitted(path) from error
    except OSError as error:
        raise DataError(f"list {path} cannot be read ({error.strerror}): add it.") from error
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if not name or (nested and name.startswith("#")):
            continue
        if paths and len(name.split()) == 2:
            name = _common_name(name, path, number)
        if "\\" in name or (not nested and ("/" in name or len(name.split()) > 1)):
            raise DataError(
                f"{path} line {number} is {name!r}, which is not the name of one sample: write the file names alone, "
                f"without folder and suffix, one per line."
            )
        if name in seen:
            raise DataError(f"{path} names {name} twice, in lines {seen[name]} and {number}: remove one of them.")
        seen[name] = number
    if not seen:
        raise DataError(f"{path} names no sample: replace it by the list of the data set.")
    return list(seen)


def _common_name(line: str, path: Path, number: int) -> str:
    """Return ``x`` for ``/JPEGImages/x.jpg /SegmentationClassAug/x.png``."""
    image, mask = (Path(part).stem for part in line.split())
    if image != mask:
        raise DataError(
            f"{path} line {number} is {line!r}, whose image and mask have not the same name: correct the line."
        )
    return mask


def check_listed(path: Path, files: dict[str, Path]) -> None:
    """Check that the files of all names in a list exist.

    Args:
        path: The list, for the message.
        files: File of each name.

    Raises:
        DataError: Some are missing; the message names the list, their number and the first of them.
    """
    absent = [file for file in files.values() if not is_file(file)]
    if absent:
        first = ", ".join(str(file) for file in absent[:3]) + (" ..." if len(absent) > 3 else "")
        raise DataError(
            f"{path} names {len(files)} samples, of {len(absent)} of which there is no file: {first}; unpack the data "
            f"set again, or take their names out of the list."
        )
