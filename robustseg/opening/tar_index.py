"""Directory of a plain tar, which has none of its own: it is built by a walk over all headers, and kept in a file.

The index lies in ``robustseg/archives`` of the user's folder for caches, ``XDG_CACHE_HOME`` or ``~/.cache``. It counts
as long as the size and the time of the tar are the same, and each read compares it with the header in the tar.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO

from robustseg.opening.index import Index, Member
from robustseg.opening.system import open_plain

_FORMAT = 1
_BLOCK = 512
_MOST = 2**28
"""Most bytes of an index."""
_LONGEST = 2**20
"""Most bytes of a header with a long name."""
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EMPTY = (*(tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE), *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE))
"""Kinds without content, whatever size their header names."""
_FAULTS = {
    tarfile.SYMTYPE: "it is a link: unpack the archive",
    tarfile.LNKTYPE: "it is a link: unpack the archive",
    tarfile.GNUTYPE_SPARSE: "it is stored with holes: unpack the archive",
}


def is_tar(start: bytes) -> bool:
    """Return whether a file begins like a tar of POSIX or GNU."""
    return start[257:262] == b"ustar"


def tar_index(file: BinaryIO, archive: str) -> Index:
    """Walk over the headers of a tar.

    Args:
        file: The open archive.
        archive: Its path, for messages.

    Raises:
        UnfitFile: It is truncated, damaged, or its members have names that it cannot be unpacked by.
    """
    index, size, place = Index(archive), file.seek(0, io.SEEK_END), 0
    name, length = "", None
    while True:
        file.seek(place)
        block = file.read(_BLOCK)
        if block == bytes(_BLOCK):  # the end of an archive
            index.is_kept = False
            return index
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            reason = f"it is truncated, damaged or no tar ({error} at byte {place}): fetch it again"
            raise index.unfit(reason) from error
        content = 0 if header.type in _EMPTY else header.size
        if length is not None and header.type in _FILES:
            content = length
        long = header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
        if content < 0 or place + _BLOCK + content > size or (long and content > _LONGEST):
            raise index.unfit(f"it is truncated or damaged at byte {place}: fetch it again")
        if header.type == tarfile.GNUTYPE_LONGNAME:
            name = _text(file.read(content))
        elif header.type == tarfile.XHDTYPE:
            fields = _fields(file.read(content))
            name = fields.get("path", name)
            length = int(fields["size"]) if fields.get("size", "").isdecimal() else None
        elif not long:
            index.add(name or header.name, _member(header, place, content))
            name, length = "", None
        place += _BLOCK + -(-content // _BLOCK) * _BLOCK


def _member(header: tarfile.TarInfo, place: int, size: int) -> Member | None:
    if header.type == tarfile.DIRTYPE:
        return None
    known = "" if header.type in _FILES else "it is a device or a pipe"
    return Member(place, size, size, fault=_FAULTS.get(header.type, known))


def _text(content: bytes) -> str:
    return content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _fields(content: bytes) -> dict[str, str]:
    """Return the fields of a POSIX header: lines of their own length, a key and a value."""
    fields: dict[str, str] = {}
    while content:
        length = content.partition(b" ")[0]
        if not length.isdigit() or not len(length) < int(length) <= len(content):
            break
        key, _, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
        fields[_text(key)] = _text(value)
        content = content[int(length) :]
    return fields


def kept_path(archive: str) -> Path | None:
    """Return the place of a tar's index; None without a home."""
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return caches / "robustseg" / "archives" / f"{hashlib.sha256(os.fsencode(archive)).hexdigest()[:32]}.json"


def index_text(index: Index, size: int, time: int) -> str:
    """Return the content of an index's file.

    Args:
        index: The index.
        size: Bytes of the tar.
        time: Time of its last change, in ns.
    """
    rows = [[name, each.start, each.size, each.fault] for name, each in index.members.items()]
    content = json.dumps([rows, list(index.folders)])
    seal = zlib.crc32(content.encode())
    return json.dumps({"format": _FORMAT, "archive": index.archive, "size": size, "time": time, "crc32": seal}) + (
        f"\n{content}\n"
    )


def kept_index(archive: str, size: int, time: int) -> Index | None:
    """Read the index of a tar that was kept; None if there is none that fits.

    Args:
        archive: Absolute path of the tar.
        size: Its bytes.
        time: Time of its last change, in ns.
    """
    place = kept_path(archive)
    if place is None:
        return None
    try:
        with open_plain(place, _MOST) as file:
            first, content = file.read(_MOST).splitlines()
        about = json.loads(first)
        expected = {"format": _FORMAT, "archive": archive, "size": size, "time": time, "crc32": zlib.crc32(content)}
        if about != expected:
            return None
        index = Index(archive)
        rows, folders = json.loads(content)
        for name in folders:
            index.add(name, None)
        for name, start, length, fault in rows:
            index.add(str(name), Member(int(start), int(length), int(length), fault=str(fault)))
    except (OSError, ValueError, TypeError, RecursionError):  # a damaged index is built anew
        return None
    return index
