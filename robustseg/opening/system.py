"""Files of the file system: regular ones within a limit of size, opened as nothing else."""

from __future__ import annotations

import errno
import io
import os
import stat

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


def open_plain(path: str | os.PathLike[str], most: int) -> io.BufferedReader:
    """Open a regular file for reading.

    Nothing else is opened, since to open a pipe may wait for ever, and to open a device may do something.

    Args:
        path: The file.
        most: Largest size in bytes.

    Raises:
        OSError: As for :func:`check_status`, or there is no such file.
    """
    check_status(os.stat(path), path, most)
    descriptor = os.open(path, _FLAGS)
    try:
        check_status(os.fstat(descriptor), path, most)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_status(status: os.stat_result, path: str | os.PathLike[str], most: int) -> None:
    """Check that a status is that of a regular file.

    Raises:
        OSError: It is that of a folder, of no regular file (:class:`UnfitFile`), or of one too large (likewise).
    """
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if kind != stat.S_IFREG:
        raise UnfitFile(f"it is {_KINDS.get(kind, 'something else')}, not a regular file", path)
    if status.st_size > most:
        raise too_large(path, most)


def too_large(path: str | os.PathLike[str], most: int) -> UnfitFile:
    """Return the error for a file of more than ``most`` bytes."""
    return UnfitFile(f"it is larger than {size_in_words(most)}, the most for a file of its kind", path)


def size_in_words(size: float) -> str:
    """Return a number of bytes in words, such as ``16 MiB``."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        del units[0]
    return f"{size:.0f} {units[0]}" if size >= 10 or size == int(size) else f"{size:.1f} {units[0]}"
