"""Regular files within a limit of size; named pipes, devices, sockets and folders are refused."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

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

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)  # a pipe in the place of the file since it was looked at
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class UnfitFile(OSError):
    """Error for a path that is no regular file, or a file of an implausible size; ``strerror`` is the reason."""

    def __init__(self, reason: str, path: str | os.PathLike[str] | None = None) -> None:
        if path is None:  # as a DataLoader makes the error of its worker again
            super().__init__(reason)
        else:
            super().__init__(errno.EINVAL, reason, os.fspath(path))

    def __str__(self) -> str:
        return str(self.args[0]) if self.strerror is None else f"{self.filename}: {self.strerror}"


def check_regular(path: str | os.PathLike[str], most: int) -> os.stat_result:
    """Return the status of a regular file, or of one that a link leads to, without opening it.

    Args:
        path: The file.
        most: Largest size in bytes.

    Raises:
        OSError: There is no such file, it is a folder, no regular file (:class:`UnfitFile`) or too large (likewise).
    """
    status = os.stat(path)
    _check(status, path, most)
    return status


def open_regular(path: str | os.PathLike[str], most: int) -> io.BufferedReader:
    """Open a regular file for reading; arguments and errors as for :func:`check_regular`.

    Nothing else is opened, since to open a pipe may wait for ever, and to open a device may do something.
    """
    check_regular(path, most)
    descriptor = os.open(path, _FLAGS)
    try:
        _check(os.fstat(descriptor), path, most)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


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
        raise _too_large(path, most)
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


def _check(status: os.stat_result, path: str | os.PathLike[str], most: int) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if kind != stat.S_IFREG:
        raise UnfitFile(f"it is {_KINDS.get(kind, 'something else')}, not a regular file", path)
    if status.st_size > most:
        raise _too_large(path, most)


def _too_large(path: str | os.PathLike[str], most: int) -> UnfitFile:
    return UnfitFile(f"it is larger than {size_in_words(most)}, the most for a file of its kind", path)


def size_in_words(size: float) -> str:
    """Return a number of bytes in words, such as ``16 MiB``."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        del units[0]
    return f"{size:.0f} {units[0]}" if size >= 10 or size == int(size) else f"{size:.1f} {units[0]}"
