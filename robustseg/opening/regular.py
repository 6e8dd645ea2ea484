"""Regular files within a limit of size; named pipes, devices, sockets and folders are refused."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from robustseg.opening.packed import member_status, open_member, within
from robustseg.opening.system import UnfitFile as UnfitFile
from robustseg.opening.system import check_status, open_plain, too_large
from robustseg.opening.system import size_in_words as size_in_words

TEXT = 2**20
"""Most bytes of a configuration, a class table or a table of settings."""
LIST = 2**26
"""Most bytes of a list of samples."""
JSON = 2**24
"""Most bytes of a card, a protocol, or another small file of results."""
PICTURE = 2**31
"""Most bytes of a picture."""
WEIGHTS = 2**40
"""Most bytes of a checkpoint, or of a stream of records."""


def status_of(path: str | os.PathLike[str]) -> os.stat_result:
    """Return the status of a file or folder, in an archive or not.

    Raises:
        OSError: There is none, or the archive cannot be read (:class:`UnfitFile`).
    """
    try:
        return os.stat(path)
    except (NotADirectoryError, FileNotFoundError):  # the latter on Windows
        found = within(path)
        if found is None:
            raise
        return member_status(*found)


def check_regular(path: str | os.PathLike[str], most: int) -> os.stat_result:
    """Return the status of a regular file, or of one that a link leads to, without opening it.

    Args:
        path: The file, which may lie in an archive, see :mod:`robustseg.opening.packed`.
        most: Largest size in bytes.

    Raises:
        OSError: There is no such file, it is a folder, no regular file (:class:`UnfitFile`) or too large (likewise).
    """
    status = status_of(path)
    check_status(status, path, most)
    return status


def open_regular(path: str | os.PathLike[str], most: int) -> io.BufferedReader:
    """Open a regular file for reading; arguments and errors as for :func:`check_regular`."""
    try:
        return open_plain(path, most)
    except (NotADirectoryError, FileNotFoundError):
        found = within(path)
        if found is None:
            raise
    return open_member(*found, most)


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """Read a regular file; arguments and errors as for :func:`check_regular`.

    The limit holds for what is read, since a file may grow, and those of the system have no size.
    """
    with open_regular(path, most) as file:
        return read_limited(file, path, most)


def read_limited(file: BinaryIO, path: str | os.PathLike[str], most: int) -> bytes:
    """Read the rest of an open file.

    Raises:
        UnfitFile: It is longer than ``most`` bytes.
        OSError: It cannot be read.
    """
    blocks, room = [], most + 1
    while room > 0 and (block := file.read(min(room, 1 << 16))):
        blocks.append(block)
        room -= len(block)
    if room <= 0:
        raise too_large(path, most)
    return b"".join(blocks)


def read_text(path: str | os.PathLike[str], most: int = TEXT, encoding: str = "utf-8") -> str:
    """Read a regular file of text, with line ends as ``\\n``; arguments and errors as for :func:`check_regular`.

    Raises:
        UnicodeDecodeError: It is no text in this encoding.
    """
    return read_bytes(path, most).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a pipe that another program of this command line fills: ``<(command)``, /dev/stdin."""
    shown = os.path.abspath(path)
    if not shown.startswith(("/dev/fd/", "/dev/stdin", "/proc/self/fd/")):
        return False
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def read_stream(path: str | os.PathLike[str], most: int = TEXT) -> str:
    """Read the text of a path that :func:`is_stream`; errors as for :func:`read_text`."""
    with Path(path).open("rb") as file:
        return read_limited(file, path, most).decode("utf-8")
