"""Folders, and lists of samples in text files."""

from __future__ import annotations

from pathlib import Path

from robustseg.data.errors import DataError


def existing_folder(folder: Path, layout: str) -> Path:
    """Return ``folder``.

    Args:
        folder: What must be there.
        layout: The expected folders in words, for the message.

    Raises:
        DataError: It is not there, or written in another case.
    """
    if folder.is_dir():
        return folder
    if (other := _in_another_case(folder)) is not None:
        raise DataError(
            f"{folder} is not a folder but {other} is: rename {other.name} to {_name_there(folder, other)}."
        )
    raise DataError(f"{folder} is not a folder; expected {layout}.")


def _name_there(folder: Path, other: Path) -> str:
    return folder.parts[len(other.parts) - 1]


def _in_another_case(folder: Path) -> Path | None:
    """The first missing part of a path, where it is there in other letters."""
    for path in [folder, *folder.parents]:
        if path.parent.is_dir():
            names = (entry for entry in path.parent.iterdir() if entry.is_dir())
            return next((entry for entry in sorted(names) if entry.name.lower() == path.name.lower()), None)
    return None


def first_folder(candidates: list[Path], root: Path, layout: str) -> Path:
    """The first of ``candidates`` that is there.

    Raises:
        DataError: None is; the message is about ``root`` itself where that is missing.
    """
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    existing_folder(root, layout)
    for candidate in candidates:
        if _in_another_case(candidate) is not None:
            existing_folder(candidate, layout)
    names = " and no ".join(candidate.relative_to(root).as_posix() for candidate in candidates if candidate != root)
    raise DataError(f"{root} holds no {names}; expected {layout}.")


def read_list(path: Path) -> list[str]:
    """Names of samples, one per line; blank lines and Windows line ends are passed over.

    Raises:
        DataError: It is missing, no text or empty, or a line is not a plain name or occurs twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: replace it.") from error
    except OSError as error:
        raise DataError(f"list {path} cannot be read ({error.strerror}): add it.") from error
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        if "/" in name or "\\" in name or len(name.split()) > 1:
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


def check_listed(path: Path, files: dict[str, Path]) -> None:
    """Check that the files of all names in a list are there.

    Args:
        path: The list.
        files: File of each name.

    Raises:
        DataError: Some are not; it names the list, their number and the first of them.
    """
    absent = [file for file in files.values() if not file.is_file()]
    if absent:
        first = ", ".join(str(file) for file in absent[:3]) + (" ..." if len(absent) > 3 else "")
        raise DataError(
            f"{path} names {len(files)} samples, of {len(absent)} of which there is no file: {first}; unpack the data "
            f"set again, or take their names out of the list."
        )
