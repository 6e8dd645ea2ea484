"""Folders of a run: file system operations required by safe checkpoints and resumable results."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from robustseg.doctor.findings import Finding, caution, mebibytes, ok, problem
from robustseg.files import sync_folder

_BLOCK = 4 * 2**20
_MOST = 64 * 2**20
# 1/4 of the free space: the measurement must not fill the disk
_SHARE = 4
_SECONDS = 2.0
_SLOW = 10 * 2**20
_LITTLE_ROOM = 10 * 2**30
_NO_ROOM = 2**30
_FEW_FILES = 10_000
_GONE = {"tmpfs": "when the machine restarts", "ramfs": "when the machine restarts", "overlay": "with the container"}


def check_paths(paths: tuple[str, ...], environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check the folders of runs, and those that libraries write to.

    Args:
        paths: Folders of runs; a missing one is created, and removed again.
        environ: Environment variables.
    """
    for path in paths:
        yield from check_folder(path)
    yield from _caches(environ)


def check_folder(path: str) -> Iterator[Finding]:
    """Check one folder of runs by performing all file operations of a run there.

    Args:
        path: The folder.
    """
    made: list[Path] = []
    try:
        folder = _make(Path(path).absolute(), made)
        scratch = Path(tempfile.mkdtemp(prefix=".doctor-", dir=folder))
    except OSError as error:
        _remove(made)
        yield problem(path, f"cannot be written: {_said(error)}.", _remedy(error))
        return
    try:
        yield from _written(path, scratch)
        yield from _operations(path, scratch)
        yield from _room(path, scratch)
    except OSError as error:
        yield problem(path, f"fails while it is written: {_said(error)}.", _remedy(error))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        _remove(made)


def _make(folder: Path, made: list[Path]) -> Path:
    missing = []
    current = folder
    while not current.exists():
        missing.append(current)
        current = current.parent
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        made.append(one)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    return folder


def _remove(made: list[Path]) -> None:
    for folder in reversed(made):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _written(path: str, scratch: Path) -> Iterator[Finding]:
    """Write and fsync a file, and measure the time."""
    about = os.statvfs(scratch)
    size = min(_MOST, about.f_bavail * about.f_frsize // _SHARE)
    block = os.urandom(min(_BLOCK, max(size, 1)))
    written, start = 0, time.perf_counter()
    with open(scratch / "written", "wb") as file:
        seconds = 0.0
        while written < max(size, 1) and seconds < _SECONDS:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
            written += len(block)
            seconds = time.perf_counter() - start
    rate = written / seconds
    with open(scratch / "written", "rb") as file:
        if file.read(len(block)) != block:
            yield problem(path, "reads back other bytes than were written.", "Do not use this file system.")
    sync_folder(scratch)
    text = f"written and synced {mebibytes(written)} at {rate / 1e6:.0f} MB/s"
    kind = _file_system(scratch)
    text += f" on {kind}" if kind else ""
    if size == _MOST and rate < _SLOW:
        yield caution(
            path,
            f"{text}: a checkpoint of 300 MB takes {300e6 / rate:.0f} s.",
            "Save less often, or write to a faster file system.",
            bytes_per_second=rate,
        )
    elif kind in _GONE:
        yield caution(
            path,
            f"{text}: what is there is gone {_GONE[kind]}.",
            "Name a folder on a disk or a mounted volume: --trainer.default_root_dir.",
            bytes_per_second=rate,
        )
    else:
        yield ok(path, text, bytes_per_second=rate, file_system=kind)


def _replace(folder: Path) -> None:
    (folder / "new").write_bytes(b"new")
    (folder / "old").write_bytes(b"old")
    os.replace(folder / "new", folder / "old")
    if (folder / "old").read_bytes() != b"new" or (folder / "new").exists():
        raise OSError(errno.EIO, "the file was not replaced")


def _symbolic(folder: Path) -> None:
    (folder / "target").write_bytes(b"target")
    (folder / "symbolic").symlink_to("target")
    if (folder / "symbolic").read_bytes() != b"target":
        raise OSError(errno.EIO, "the link does not lead to its file")


def _hard(folder: Path) -> None:
    (folder / "first").write_bytes(b"first")
    os.link(folder / "first", folder / "second")
    with contextlib.suppress(FileExistsError):
        os.link(folder / "first", folder / "second")
        raise OSError(errno.EIO, "a second link of the same name was made")


def _lock(folder: Path) -> None:
    with open(folder / "lock", "w") as one, open(folder / "lock", "w") as other:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raise OSError(errno.EIO, "two got the lock at once")


_OPERATIONS: tuple[tuple[str, Callable[[Path], None], bool, str], ...] = (
    ("atomic replacement", _replace, True, "a checkpoint that is being written can be lost: choose another folder"),
    ("symbolic links", _symbolic, True, "last.ckpt is one: choose another folder"),
    ("hard links", _hard, False, "evaluations by several processes at once can collide: run one at a time"),
    ("advisory locks", _lock, False, "two runs can write to one folder: never start the same command twice"),
)
"""Name, function, whether training needs the operation, and the consequence of its absence."""


def _operations(path: str, scratch: Path) -> Iterator[Finding]:
    working = []
    for name, operation, needed, lack in _OPERATIONS:
        try:
            operation(scratch)
        except OSError as error:
            found = problem if needed else caution
            consequence, _, remedy = lack.partition(": ")
            yield found(path, f"no {name} ({_said(error)}): {consequence}.", f"{remedy[0].upper()}{remedy[1:]}.")
        else:
            working.append(name)
    if working:
        yield ok(path, f"has {', '.join(working)}", operations=working)


def _room(path: str, folder: Path) -> Iterator[Finding]:
    about = os.statvfs(folder)
    # the file of the measurement is removed afterwards
    free = about.f_bavail * about.f_frsize + sum(file.stat().st_size for file in folder.iterdir())
    total = about.f_blocks * about.f_frsize
    text = f"{mebibytes(free)} of {mebibytes(total)} free"
    remedy = "Delete old runs, or name another folder with --trainer.default_root_dir."
    if free < _NO_ROOM:
        yield problem(path, f"{text}: a few checkpoints fill it.", remedy, free=free)
    elif free < _LITTLE_ROOM:
        yield caution(path, f"{text}, room for some tens of checkpoints.", remedy, free=free)
    else:
        yield ok(path, text, free=free)
    # file systems without a fixed number of files report 0 of 0
    if about.f_files and about.f_favail < _FEW_FILES:
        found = problem if about.f_favail < 100 else caution
        yield found(path, f"room for {about.f_favail} more files (inodes) only.", remedy, inodes=about.f_favail)


def _caches(environ: Mapping[str, str]) -> Iterator[Finding]:
    temporary = environ.get("TMPDIR")
    if temporary:
        yield _writable("$TMPDIR", Path(temporary), problem, "export TMPDIR=... to a folder that can be written.")
    else:
        yield _writable("temporary files", Path("/tmp"), problem, "export TMPDIR=... to a folder that can be written.")
    home = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    torch_home = Path(environ.get("TORCH_HOME") or home / "torch")
    hub = Path(environ.get("HF_HOME") or home / "huggingface")
    hub = Path(environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or hub / "hub")
    lack = "Pretrained weights cannot be downloaded; export {}=... to a folder that can be written."
    yield _writable("torch's cache", torch_home, caution, lack.format("TORCH_HOME"))
    yield _writable("Hugging Face's cache", hub, caution, lack.format("HF_HOME"))


def _writable(name: str, folder: Path, found: Callable[[str, str, str], Finding], remedy: str) -> Finding:
    made: list[Path] = []
    try:
        with tempfile.TemporaryFile(dir=_make(folder.absolute(), made)) as file:
            file.write(b"0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return found(name, f"{folder} cannot be written: {_said(error)}.", remedy)
    finally:
        _remove(made)
    return ok(name, f"{folder} can be written")


def _file_system(folder: Path) -> str | None:
    """Return the kernel's name for the type of a folder's file system; None if unknown."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return None
    where, kind = "", None
    resolved = str(folder.resolve())
    for line in lines:
        _, point, found, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
        # a later mount hides an earlier one
        if inside and len(point) >= len(where):
            where, kind = point, found
    return kind


def _said(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"


def _remedy(error: OSError) -> str:
    known = {
        errno.ENOSPC: "Make room, or name another folder",
        errno.EDQUOT: "Your quota is used up: delete files, or name another folder",
        errno.EROFS: "The file system is read-only: have it mounted for writing, or name another folder",
        errno.ENOTDIR: "A part of the path is a file: name another folder",
        errno.EACCES: "Give yourself the right to write there (ls -ld), or name another folder",
    }
    return f"{known.get(error.errno or 0, 'Name another folder')} with --trainer.default_root_dir."
