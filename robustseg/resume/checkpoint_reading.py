"""Integrity check and safe reader of checkpoint files; nothing in them is executed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from robustseg.opening import archives, tensors
from robustseg.opening.regular import WEIGHTS, open_regular

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
        with open_regular(path, WEIGHTS) as file:
            return archives.damage(file)
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
    error = tensors.unreadable(path)
    return None if error is None else _why(error)


def read_plain_content(path: Path, map_location: Any = "cpu") -> Any:
    """Read tensors and plain values of a file, executing nothing in it.

    Raises:
        CheckpointError: The file is damaged, contains other objects, or is no file of tensors.
    """
    try:
        return tensors.load_tensors(path, map_location)
    except MemoryError:
        raise
    except Exception as error:  # the readers raise a dozen types, from EOFError to KeyError
        raise CheckpointError(f"{path} {_why(error)}.") from error


def _why(error: Exception) -> str:
    if isinstance(error, tensors.DamagedFile):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    if match := _ASKED_FOR.search(str(error)):
        return f"asks for the Python object {match[1]}, and only tensors and plain values are unpickled"
    return f"is truncated or not a file of tensors ({type(error).__name__})"
