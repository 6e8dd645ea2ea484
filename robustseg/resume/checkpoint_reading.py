"""Whether a checkpoint file is whole, and its content, without running anything in it."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

_ARCHIVE = b"PK\x03\x04"
"""First bytes of one."""
_FOLDER = 0x10
"""MS-DOS's mark of a folder, in the attributes of an archive's entry."""
_ASKED_FOR = re.compile(r"GLOBAL ([\w.]+)")
"""How torch names the object that it refuses to unpickle."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message is one line, names the file or folder and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def damage(path: Path) -> str | None:
    """Why a checkpoint cannot be used, as the rest of a sentence that begins with its name; None if it can.

    The file is compared with the checksums that torch writes into it. A symbolic link stands for the file that it
    points to.

    Args:
        path: The file; nothing in it is run.
    """
    return broken(path) or unreadable(path)


def broken(path: Path) -> str | None:
    """What is wrong with the bytes of a file, as in :func:`damage`; None if they are those that were written."""
    try:
        with path.open("rb") as file:
            return _broken(file)
    except IsADirectoryError:
        return "is a folder"
    except FileNotFoundError:
        return f"is a link to {os.readlink(path)}, which does not exist" if path.is_symlink() else "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def unreadable(path: Path) -> str | None:
    """Why torch would refuse a file that is not :func:`broken`, as in :func:`damage`; None if it reads it.

    The file is mapped, so that its tensors are not read for that.
    """
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except MemoryError:
        raise
    except Exception as error:
        return _why(error)
    return None


def read_plain_content(path: Path, map_location: Any = "cpu") -> Any:
    """Tensors and plain values of a file that is not :func:`broken`, running nothing in it.

    Raises:
        CheckpointError: The file asks for other objects, or is no file of tensors.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # the readers raise a dozen types, from EOFError to KeyError
        raise CheckpointError(f"{path} {_why(error)}.") from error


def _broken(file: BinaryIO) -> str | None:
    if not os.fstat(file.fileno()).st_size:
        return "is empty (zero bytes)"
    if _has_index(file):
        return _broken_record(file)
    file.seek(0)
    return "is truncated, or damaged at its end" if file.read(len(_ARCHIVE)) == _ARCHIVE else None


def _has_index(file: BinaryIO) -> bool:
    """Whether a file ends as an archive does, with its index: one that was cut anywhere does not."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:
        return False


def _broken_record(file: BinaryIO) -> str | None:
    """Compare each record of an archive with its CRC-32, which torch writes but does not look at in reading.

    A flipped bit that goes unnoticed stands where nothing is read: in a date, or between two records.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            record = archive.testzip()
            # torch takes a record that is marked as a folder for one without content, and returns unset memory.
            if any(info.external_attr & _FOLDER for info in archive.infolist()):
                return "is damaged (in its index)"
    except OSError:
        raise
    except Exception as error:  # of the archive's headers, which may say anything
        return f"is damaged (in its index: {type(error).__name__})"
    return None if record is None else f"is damaged (in its record {record})"


def _why(error: Exception) -> str:
    if match := _ASKED_FOR.search(str(error)):
        return f"asks for the Python object {match[1]}, and only tensors and plain values are unpickled"
    return f"is truncated or not a file of tensors ({type(error).__name__})"
