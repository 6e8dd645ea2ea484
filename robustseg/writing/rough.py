"""Writing on rough file systems: errors and remedies, syncing, renaming, and devices and pipes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import time
from pathlib import Path
from typing import BinaryIO

_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""Errors of file systems that cannot sync."""
_NO_RENAME = (errno.EXDEV, errno.EBUSY)
"""Errors of renaming where a folder consists of several file systems, or the target is a mount point itself."""
_PATIENCE = 5.0
"""Seconds after which an empty file counts as that of a killed writer, and a pipe as one that nobody reads."""
_OF_THE_PROCESS = ("/dev/fd/", "/dev/stdout", "/dev/stderr", "/dev/stdin", "/proc/")
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room"),
    errno.EFBIG: "raise the largest file size allowed (ulimit -f)",
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make the folder writable"),
    errno.ENOENT: "put the folder back",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a part of its path is a file, so name another place"),
    errno.EISDIR: "it is a folder, so name a file in it",
    errno.ENXIO: "start what reads this pipe first",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def remedy(error: OSError) -> str:
    """Return the remedy for an error in writing, as the rest of a sentence."""
    return _REMEDIES.get(error.errno or 0, "mend that")


def not_writable(path: str | os.PathLike[str], error: OSError) -> str:
    """Return a message about a file that cannot be written: path, reason and remedy, without a full stop."""
    return f"{os.fspath(path)}: cannot be written ({error.strerror or error}): {remedy(error)}"


def replace(source: Path, path: Path) -> None:
    """Rename a file to ``path``, replacing an existing file.

    Where the file system refuses, ``path`` is overwritten and ``source`` removed. If that fails, the content of before
    is put back.

    Raises:
        OSError: Neither is possible.
    """
    try:
        os.replace(source, path)
        return
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
    before = path.with_name(f"{source.name}.old") if path.exists() else None
    if before is not None:
        shutil.copyfile(path, before)
    try:
        _overwrite(source, path)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink() if before is None else _overwrite(before, path)
        raise
    finally:
        if before is not None:
            before.unlink()
    source.unlink()


def _overwrite(source: Path, path: Path) -> None:
    with source.open("rb") as file, path.open("wb") as target:
        shutil.copyfileobj(file, target, 1 << 20)
        sync_file(target)


def stays_empty(path: Path) -> bool:
    """Return whether a file is empty, and still so after a wait for its writer."""
    end = time.monotonic() + _PATIENCE
    try:
        while not path.stat().st_size:
            if time.monotonic() > end:
                return True
            time.sleep(0.02)
    except FileNotFoundError:
        pass
    return False


def is_direct(path: str | os.PathLike[str]) -> bool:
    """Return whether a path leads to a device, a pipe, or a file that the process has open."""
    place = os.path.abspath(path)
    for _ in range(40):  # as many links as Linux follows
        if place.startswith(_OF_THE_PROCESS):
            return True
        if not os.path.islink(place):
            break
        place = os.path.abspath(os.path.join(os.path.dirname(place), os.readlink(place)))
    try:
        kind = os.stat(place).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(kind) and not stat.S_ISDIR(kind)


def open_direct(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a device, or a pipe that is read within a few seconds; what a file has already stays.

    Raises:
        OSError: It cannot be opened, or nobody reads the pipe (ENXIO).
    """
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            # Without O_NONBLOCK the opening of a pipe would wait for ever.
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            os.set_blocking(descriptor, True)
            return open(descriptor, "wb")


def sync_file(file: BinaryIO) -> None:
    """Flush a file and sync it to disk, where the file system can.

    Raises:
        OSError: The sync failed.
    """
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
