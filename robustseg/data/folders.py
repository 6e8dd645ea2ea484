"""Folders and lists of samples in text files, with checks and clear errors."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from robustseg.data.errors import DataError, not_permitted
from robustseg.files import write_text
from robustseg.opening.packed import entries_of, is_archive, unkept_index
from robustseg.opening.regular import LIST, UnfitFile, read_text, status_of

_MOST_WAYS = 100
"""Most ways through links to one folder."""
_DEEPEST = 100
"""Most folders within one another."""


def is_folder(path: Path) -> bool:
    """Return True for an existing folder, a link to one, or an archive.

    Raises:
        DataError: Permissions forbid access.
    """
    mode = _mode(path)
    return stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and is_archive(path))


def is_file(path: Path) -> bool:
    """Return True for an existing file, or a link to one.

    Raises:
        DataError: Permissions forbid access.
    """
    return stat.S_ISREG(_mode(path))


def _mode(path: Path) -> int:
    try:
        return status_of(path).st_mode
    except PermissionError as error:
        raise not_permitted(path) from error
    except UnfitFile as error:
        raise DataError(f"{error}.") from error
    except (OSError, ValueError):
        return 0


def listed(folder: Path) -> list[Path]:
    """Return the contents of a folder, in order.

    Raises:
        DataError: Permissions forbid listing it.
    """
    try:
        packed = entries_of(folder)
        return sorted(folder.iterdir() if packed is None else (folder / name for name, _ in packed))
    except PermissionError as error:
        raise not_permitted(folder) from error
    except UnfitFile as error:
        raise DataError(f"{error}.") from error


def files_below(folder: Path, hidden: bool = False) -> list[Path]:
    """Return all files below a folder, in order, links followed.

    A link to one of the folders above it is skipped, since its contents are found anyway.

    Args:
        folder: The folder, in an archive or not.
        hidden: Return hidden files, and those in hidden folders, as well.

    Raises:
        DataError: Permissions forbid listing one of the folders, or links lead to too many.
    """
    return sorted(_below(folder, (os.path.realpath(folder),), Counter(), hidden))


def _below(folder: Path, above: tuple[str, ...], seen: Counter[str], hidden: bool) -> Iterator[Path]:
    for path, is_a_folder in _entries(folder):
        if path.name.startswith(".") and not hidden:
            continue
        if not is_a_folder:
            yield path
        elif (real := os.path.realpath(path)) not in above:
            seen[real] += 1
            if seen[real] > _MOST_WAYS or len(above) > _DEEPEST:
                raise DataError(
                    f"{path}: links lead to this folder in more than {_MOST_WAYS} ways, or it lies more than "
                    f"{_DEEPEST} folders deep: remove links, or name a folder without them."
                )
            yield from _below(path, (*above, real), seen, hidden)


def _entries(folder: Path) -> list[tuple[Path, bool]]:
    """Return the contents of a folder, and whether each is a folder."""
    try:
        if (packed := entries_of(folder)) is not None:
            return [(folder / name, is_a_folder) for name, is_a_folder in packed]
        with os.scandir(folder) as entries:
            return [
                # a link may be broken, or point to itself
                (Path(each.path), stat.S_ISDIR(_mode(Path(each.path))) if each.is_symlink() else each.is_dir())
                for each in entries
            ]
    except PermissionError as error:
        raise not_permitted(folder) from error
    except UnfitFile as error:
        raise DataError(f"{error}.") from error


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
        _keep_index(folder)
        return folder
    if (other := _in_another_case(folder)) is not None:
        raise DataError(
            f"{folder} is not a folder but {other} is: rename {other.name} to {_name_there(folder, other)}."
        )
    raise DataError(f"{folder} is not a folder; expected {layout}.")


def _keep_index(folder: Path) -> None:
    """Keep the index of a new tar for other processes and runs, if there is a place for it."""
    try:
        new = unkept_index(folder)
    except OSError:  # reported by whatever looks into the folder
        return
    if new is not None:
        with contextlib.suppress(OSError):
            new[0].parent.mkdir(parents=True, exist_ok=True)
            write_text(new[1], new[0], durable=False)


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
    """Return the first of ``candidates`` that exists or, without any, the first in an archive that lies in ``root``.

    Raises:
        DataError: None exists, or several archives hold it; the message is about ``root`` itself if that is missing.
    """
    for candidate in candidates:
        if is_folder(candidate):
            _warn_if_incomplete(candidate, root)
            return candidate
    existing_folder(root, layout)
    archives = [path for path in listed(root) if is_archive(path) and is_file(path)]
    unfit: dict[Path, str] = {}
    for candidate in candidates:
        if found := _in_archives(archives, candidate.relative_to(root), unfit):
            return found
    if unfit:
        told = " ".join(unfit.values())
        wanted = candidates[0].relative_to(root).as_posix()
        raise DataError(f"{root} holds no {wanted}, and an archive in it that cannot be read in place: {told}")
    for candidate in candidates:
        if _in_another_case(candidate) is not None:
            existing_folder(candidate, layout)
    names = " and no ".join(candidate.relative_to(root).as_posix() for candidate in candidates if candidate != root)
    raise DataError(f"{root} holds no {names}; expected {layout}.")


def _warn_if_incomplete(folder: Path, root: Path) -> None:
    """Warn of a folder that lacks files which a zip in ``root`` holds for it, as when unpacking broke off.

    A tar is not compared, as it would have to be walked.
    """
    if folder == root or not os.path.isdir(root):
        return
    for archive in (path for path in listed(root) if path.suffix.lower() == ".zip" and is_file(path)):
        packed = archive / folder.relative_to(root)
        try:
            held = {path.relative_to(packed) for path in files_below(packed)} if is_folder(packed) else set()
        except DataError:  # another one's archive
            continue
        if lost := held - {path.relative_to(folder) for path in files_below(folder)}:
            warnings.warn(
                f"{folder} is read, and lacks {len(lost)} files that {archive} holds for it, such as "
                f"{min(lost).as_posix()}: unpack it again, or take the folder away to read the archive.",
                stacklevel=4,
            )


def _in_archives(archives: list[Path], inner: Path, unfit: dict[Path, str]) -> Path | None:
    """Return a folder in the one archive that holds it, and note the errors about archives that cannot be read."""
    found = []
    for archive in archives:
        try:
            found += [archive / inner] if archive not in unfit and is_folder(archive / inner) else []
        except DataError as error:
            unfit[archive] = str(error)
    if len(found) > 1:
        raise DataError(
            f"{found[0]} and {found[1]} are the same folder of two archives: take one of them away, or unpack them."
        )
    return found[0] if found else None


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
