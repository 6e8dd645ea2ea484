"""Atomic files: complete or absent, even if the writing process is killed.

All writers begin here and share one policy. ``durable`` files are on disk when the call returns and survive a power
failure: checkpoints, results, everything that takes time to reproduce. Others, such as caches and pictures, survive the
end of the process but may be missing or damaged after a power failure, which their readers detect.

File systems without hard links, or that refuse to rename, get the closest that they can do: see :func:`create_text` and
:func:`replace`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from robustseg.writing.rough import is_direct, open_direct, stays_empty
from robustseg.writing.rough import not_writable as not_writable
from robustseg.writing.rough import remedy as remedy
from robustseg.writing.rough import replace as replace
from robustseg.writing.rough import sync_file as sync_file

if sys.platform != "win32":
    import fcntl

_TEMPORARY = re.compile(r"\..+\.[0-9]+\.[0-9a-f]{8}\.tmp")
_ABANDONED_AFTER = 3600
"""Seconds without a change after which a temporary file counts as left over, on file systems without locks."""
_LONGEST_NAME = 100
"""Most bytes of a file's name in that of its temporary file."""
_NO_LINK = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.EACCES)
"""Errors of file systems without hard links."""


class TemporaryFile:
    """A hidden file beside ``path``, to be written, synced to disk and renamed to ``path``.

    It is locked until it is closed. The system releases a lock with the process that held it, so a file without a lock
    is left over, even if another process, here or on another machine, now has the number of its writer.

    Args:
        path: Final path of the file.
        folder: Folder of the temporary file, on the same file system; by default the folder of ``path``.

    Raises:
        OSError: The file cannot be created.
    """

    def __init__(self, path: Path, folder: Path | None = None):
        while True:
            name = os.fsdecode(os.fsencode(path.name)[:_LONGEST_NAME])
            self.path = (folder or path.parent) / f".{name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
            self._file = self.path.open("xb")
            with contextlib.suppress(OSError):
                _lock(self._file)
            # Before the lock was held, another process may have removed the file as left over.
            if os.fstat(self._file.fileno()).st_nlink:
                break
            self._file.close()
        self.failure: OSError | None = None
        """First error in writing, since some writers and their clean-up replace it by errors of their own."""

    def write(self, block: bytes | memoryview) -> int:
        """Append ``block`` and return its number of bytes.

        Raises:
            OSError: The block cannot be written.
        """
        try:
            self._file.write(block)
        except OSError as error:
            self.failure = self.failure or error
            raise
        return len(block)

    def flush(self) -> None:
        """Do nothing: :meth:`sync` and :meth:`become` flush."""

    def sync(self) -> None:
        """Flush and sync the file to disk.

        Raises:
            OSError: The sync failed.
        """
        sync_file(self._file)

    def become(self, path: Path, durable: bool) -> None:
        """Rename the file to ``path``, replacing an existing file.

        Raises:
            OSError: The content cannot be synced, or the file cannot be renamed.
        """
        self._file.flush()
        if durable:
            sync_file(self._file)
        if sys.platform == "win32":  # an open file cannot be renamed there
            self._file.close()
        replace(self.path, path)
        if durable:
            with contextlib.suppress(OSError):  # not supported by every file system
                sync_folder(path.parent)

    def __enter__(self) -> TemporaryFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Flushing the buffer may fail on the same full disk; the original error must stay the visible one.
        with contextlib.suppress(OSError):
            self._file.close()
        # After the rename to ``path`` there is nothing to remove.
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def write_whole(content: bytes, path: str | os.PathLike[str], *, durable: bool = True) -> None:
    """Write a file so that ``path`` holds either its old content or all of the new one.

    Folders are created. A link is kept, and its target is written; a device, a pipe or a file of the process, such as
    ``/dev/stdout``, is written to directly. A pipe that nobody reads for seconds is an error.

    Args:
        content: Whole content of the file.
        path: The file.
        durable: Sync the file to disk before the return.

    Raises:
        OSError: The file cannot be written; ``path`` is unchanged.
    """
    if is_direct(path):
        with open_direct(path) as device:
            device.write(content)
        return
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    if durable:
        remove_left_over(target.parent)
    with TemporaryFile(target) as file:
        file.write(content)
        file.become(target, durable)


def copy_whole(source: BinaryIO, path: Path) -> None:
    """Copy the rest of an open file so that ``path`` holds all of it or does not change; folders are created.

    Raises:
        OSError: It cannot be read or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(path) as file:
        while block := source.read(1 << 20):
            file.write(block)
        file.become(path, durable=True)


def write_text(text: str, path: str | os.PathLike[str], *, durable: bool = True) -> None:
    """Write UTF-8 text with its own line endings on every system, as :func:`write_whole` does.

    Lone surrogates, from names of files, have no UTF-8 form and become question marks.
    """
    write_whole(text.encode("utf-8", errors="replace"), path, durable=durable)


def write_json(record: Mapping[str, Any], path: str | os.PathLike[str], *, durable: bool = True) -> None:
    """Write indented JSON as :func:`write_whole` does.

    Raises:
        OSError: It cannot be written.
        ValueError: A number is not finite, which JSON cannot represent.
        TypeError: A value has no JSON type.
    """
    write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", path, durable=durable)


def create_text(text: str, path: Path) -> None:
    """Create a file durably; if several processes try at once, only one succeeds.

    On file systems without hard links the file is empty for a moment. There, an empty file is waited for, and replaced
    if it stays empty: its writer was killed.

    Raises:
        FileExistsError: The file exists and holds something.
        OSError: It cannot be written.
    """
    with TemporaryFile(path) as file:
        file.write(text.encode())
        file.sync()
        try:
            # Unlike a rename, a link fails if the file exists.
            os.link(file.path, path)
        except OSError as error:
            if isinstance(error, FileExistsError) or error.errno not in _NO_LINK:
                raise
            try:
                path.open("xb").close()
            except FileExistsError:
                if not stays_empty(path):
                    raise
            file.become(path, durable=True)
    with contextlib.suppress(OSError):
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk, so that renamed files keep their names after a power failure.

    Raises:
        OSError: The sync failed.
    """
    if sys.platform == "win32":  # Windows cannot open folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_left_over(folder: Path) -> None:
    """Remove the temporary files of killed writers in ``folder``; those of running writers stay."""
    with contextlib.suppress(OSError):  # a failed clean-up is no reason to stop
        for path in list(_temporary_files(folder)):
            _remove_if_left_over(path)


def _lock(file: BinaryIO, wait: bool = True) -> None:
    """Lock a file until it is closed.

    Raises:
        BlockingIOError: A running process has locked it, and ``wait`` is False.
        OSError: The file system or the operating system does not support such locks.
    """
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "no locks")
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _temporary_files(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                yield Path(entry.path)


def _remove_if_left_over(path: Path) -> None:
    try:
        with path.open("r+b") as file:
            _lock(file, wait=False)
            os.unlink(path)
    except (BlockingIOError, FileNotFoundError):
        return
    except OSError:  # no locks here, or a file of another user
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                os.unlink(path)
