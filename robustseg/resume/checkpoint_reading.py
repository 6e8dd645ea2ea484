"""Integrity check and safe reader of checkpoint files; nothing in them is executed."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

_ARCHIVE = b"PK\x03\x04"
"""First bytes of a zip archive."""
_FOLDER = 0x10
"""MS-DOS attribute of a folder, in an archive's entry."""
_ASKED_FOR = re.compile(r"GLOBAL ([\w.]+)")
"""Pattern of the object's name in torch's refusal to unpickle."""


class CheckpointError(RuntimeError):
    """Error in writing or reading a checkpoint; the message is one line with the file or folder and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def damage(path: Path) -> str | None:
    """Return the fault of a checkpoint, as the rest of a sentence that begins with its name; None if it is usable.

    The file is compared with the checksums that torch writes into it. Symbolic links are followed.

    Args:
        path: The file; nothing in it is executed.
    """
    return broken(path) or unreadable(path)


def broken(path: Path) -> str | None:
    """Return the fault in the bytes of a file, worded as in :func:`damage`; None if they are intact."""
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
    """Return torch's reason to refuse a file that is not :func:`broken`, worded as in :func:`damage`, or None.

    The file is memory-mapped, so that its tensors are not read.
    """
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except MemoryError:
        raise
    except Exception as error:
        return _why(error)
    return None


def read_plain_content(path: Path, map_location: Any = "cpu") -> Any:
    """Read tensors and plain values of a file that is not :func:`broken`, executing nothing in it.

    Raises:
        CheckpointError: The file contains other objects, or is no file of tensors.
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
    """Return whether a file ends with an archive's index, which a truncated one lacks."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:
        return False


def _broken_record(file: BinaryIO) -> str | None:
    """Compare each record of an archive with its CRC-32, which torch writes but does not check in reading.

    A flipped bit is missed only in unused bytes: in a date, or between two records.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            record = archive.testzip()
            # torch treats a record marked as a folder as empty, and returns uninitialised memory.
            if any(info.external_attr & _FOLDER for info in archive.infolist()):
                return "is damaged (in its index)"
    except OSError:
        raise
    except Exception as error:  # from the archive's headers, which may hold any values
        return f"is damaged (in its index: {type(error).__name__})"
    return None if record is None else f"is damaged (in its record {record})"


def _why(error: Exception) -> str:
    if match := _ASKED_FOR.search(str(error)):
        return f"asks for the Python object {match[1]}, and only tensors and plain values are unpickled"
    return f"is truncated or not a file of tensors ({type(error).__name__})"
