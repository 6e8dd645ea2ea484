"""Archives read in place: a path may lead through a zip or a plain tar, as ``images.zip/train/a.png``.

Such a path is an ordinary one, and so it can be sent to any process. No file stays open from one read to the next, and
threads and processes share none. Each process reads the directory of an archive once, and again if the archive changed.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import stat
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from robustseg.opening.index import Index, Member
from robustseg.opening.member import MemberFile
from robustseg.opening.system import UnfitFile, open_plain, size_in_words, too_large
from robustseg.opening.tar_index import index_text, is_tar, kept_index, kept_path, tar_index
from robustseg.opening.zip_index import zip_index

if TYPE_CHECKING:
    from typing import BinaryIO

ARCHIVE = 2**44
"""Most bytes of an archive."""
SUFFIXES = (".zip", ".tar")
"""Suffixes of archives that can be read in place."""
_OTHERS = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar")
"""Suffixes of those that are recognised for the message."""
_REFUSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
}
"""First bytes of compressed archives; to read one file of them is to unpack all before it."""
_LARGE = 2**26
"""Bytes of a member above which it must not be much larger than what is stored of it."""
_MOST_RATIO = 100
_CHANGED = "it was changed while it was read: start again when it is complete"


def within(path: str | os.PathLike[str]) -> tuple[Path, str] | None:
    """Return the archive that a path leads through or to, and the place in it with slashes; None without one."""
    parts = PurePath(path).parts
    for count, part in enumerate(parts, start=1):
        if part.lower().endswith((*SUFFIXES, *_OTHERS)):
            archive = Path(*parts[:count])
            if archive.is_file():
                return archive, "/".join(parts[count:])
    return None


def is_archive(path: Path) -> bool:
    """Return whether the name of a file is that of an archive, compressed ones included."""
    return path.name.lower().endswith((*SUFFIXES, *_OTHERS))


def index_of(archive: Path) -> Index:
    """Return what an archive holds; it is read once per process, and again if it changed.

    Raises:
        OSError: It cannot be read, or is none that can be read in place (:class:`UnfitFile`, with the remedy).
    """
    return _index(os.path.abspath(archive), _signature(os.stat(archive)))


def _signature(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


@functools.lru_cache(maxsize=32)
def _index(archive: str, signature: tuple[int, int, int]) -> Index:
    size, time, _ = signature
    if (kept := kept_index(archive, size, time)) is not None:
        return kept
    with open_plain(archive, ARCHIVE) as file:
        found = _read_index(file, archive)
        if _signature(os.fstat(file.fileno())) != signature:
            raise UnfitFile(_CHANGED, archive)
    return found


def _read_index(file: BinaryIO, archive: str) -> Index:
    start = file.read(512)
    for magic, name in _REFUSED.items():
        if start.startswith(magic):
            raise UnfitFile(
                f"it is compressed by {name}, and only zip and plain tar archives can be read in place: unpack it, and "
                f"name the folder",
                archive,
            )
    if is_tar(start) or (archive.lower().endswith(".tar") and not start.startswith(b"PK")):
        return tar_index(file, archive)
    return zip_index(file, archive)


def _find(archive: Path, inner: str) -> Member | None:
    """Return the member at a place; None for a folder.

    Raises:
        OSError: There is neither, or the archive cannot be read.
    """
    index = index_of(archive)
    if inner in index.members:
        return index.members[inner]
    if inner in index.folders:
        return None
    for count in range(1, inner.count("/") + 1):
        above = "/".join(inner.split("/")[:count])
        if above in index.members and is_archive(Path(above)):
            raise UnfitFile("archives within archives are not read in place: unpack the outer one", archive / above)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(archive / inner))


def member_status(archive: Path, inner: str) -> os.stat_result:
    """Return the status of a member or folder in an archive: its kind and size, and the times of the archive.

    Raises:
        OSError: There is none, or the archive cannot be read.
    """
    member, outer = _find(archive, inner), os.stat(archive)
    mode = stat.S_IFDIR if member is None else stat.S_IFREG
    size = 0 if member is None else member.size
    times = {name: getattr(outer, name) for name in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")}
    about = (outer.st_uid, outer.st_gid, size, int(outer.st_atime), int(outer.st_mtime), int(outer.st_ctime))
    return os.stat_result((mode | 0o444, outer.st_ino, outer.st_dev, 1, *about), times)


def entries_of(path: Path) -> list[tuple[str, bool]] | None:
    """Return the names in a folder of an archive, and whether each is a folder; None if the path leads to no archive.

    Raises:
        OSError: It is no folder of the archive, or this cannot be read.
    """
    found = within(path)
    if found is None:
        return None
    archive, inner = found
    if _find(archive, inner) is not None:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    index = index_of(archive)
    above = f"{inner}/" if inner else ""
    return [(name, above + name in index.folders) for name in index.folders[inner]]


def unkept_index(path: Path) -> tuple[Path, str] | None:
    """Return the file for the index of the tar that a path leads through, and its content; None if it is kept.

    Raises:
        OSError: The archive cannot be read.
    """
    found = within(path)
    if found is None or (index := index_of(found[0])).is_kept or (place := kept_path(index.archive)) is None:
        return None
    status = os.stat(index.archive)
    index.is_kept = True
    return place, index_text(index, status.st_size, status.st_mtime_ns)


def open_member(archive: Path, inner: str, most: int) -> io.BufferedReader:
    """Open a file in an archive; it is checked when all of it is read.

    Args:
        archive: The archive.
        inner: Place in it, with slashes.
        most: Largest size in bytes.

    Raises:
        OSError: There is none, it is a folder, or it cannot be read in place (:class:`UnfitFile`).
    """
    path, member = archive / inner, _find(archive, inner)
    if member is None:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if member.fault:
        raise UnfitFile(member.fault, path)
    if member.size > most:
        raise too_large(path, most)
    if member.size > max(_LARGE, _MOST_RATIO * member.packed):
        sizes = f"{size_in_words(member.size)} of {size_in_words(member.packed)}"
        raise UnfitFile(f"unpacking it would make {sizes}, as of no picture: remove it, or unpack the archive", path)
    before = _signature(os.stat(archive))
    file = open_plain(archive, ARCHIVE)

    def check() -> None:
        if _signature(os.fstat(file.fileno())) != before:
            raise UnfitFile(_CHANGED, archive)

    return io.BufferedReader(MemberFile(file, member, path, check))
