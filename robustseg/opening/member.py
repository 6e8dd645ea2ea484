"""Content of a file in an archive, unpacked on demand and compared with its checksum."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from robustseg.opening.index import Member
from robustseg.opening.system import UnfitFile

if TYPE_CHECKING:
    from typing_extensions import Buffer

_FIRST = 2**16
"""Bytes that are read alone, as the header of a picture needs no more."""
_BLOCK = 2**18
_LOCAL = struct.Struct("<4s22xHH")
"""Header before a member of a zip: signature, and the lengths of the name and of further fields."""
_TAR_BLOCK = 512


class MemberFile(io.RawIOBase):
    """A file in an archive: its first bytes alone, or else all of it in memory, after a comparison with its checksum.

    Args:
        file: The open archive, which this file closes.
        member: The file's place in it.
        path: Path for messages.
        check: Function that raises an error if the archive has changed; it is called when all is read.
    """

    def __init__(self, file: io.BufferedReader, member: Member, path: Path, check: Callable[[], None]) -> None:
        self._file, self._member, self._path, self._check = file, member, path, check
        self._content = b""
        self._place = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place, without reading."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._member.size}[whence]
        if base + place < 0:
            raise ValueError(f"negative seek position {base + place}")
        self._place = base + place
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def readinto(self, buffer: Buffer) -> int:
        """Read into a buffer and return the number of bytes.

        Raises:
            UnfitFile: The member is damaged, or the archive was changed.
        """
        view = memoryview(buffer).cast("B")
        end = min(self._place + len(view), self._member.size)
        if end > len(self._content):
            self._content = self._read(_FIRST if end <= _FIRST < self._member.size else self._member.size)
        block = self._content[self._place : end]
        view[: len(block)] = block
        self._place += len(block)
        return len(block)

    def close(self) -> None:
        """Close the archive as well."""
        self._file.close()
        super().close()

    def _read(self, count: int) -> bytes:
        """Read the first ``count`` bytes, and compare with what the archive says of it if that is all."""
        self._file.seek(self._member.start + self._header())
        whole = count == self._member.size
        content = self._inflated(count + whole) if self._member.deflated else self._file.read(count)
        if len(content) != count or (whole and self._member.crc not in (None, zlib.crc32(content))):
            self._check()
            raise self._damaged()
        if whole:
            self._check()
        return content

    def _header(self) -> int:
        """Return the length of the header before the content."""
        if self._member.crc is None:
            self._file.seek(self._member.start)
            try:
                header = tarfile.TarInfo.frombuf(self._file.read(_TAR_BLOCK), "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise self._damaged() from error
            if header.size != self._member.size:
                raise self._damaged()
            return _TAR_BLOCK
        self._file.seek(self._member.start)
        start = self._file.read(_LOCAL.size)
        if len(start) < _LOCAL.size or not start.startswith(b"PK\x03\x04"):
            raise self._damaged()
        _, name, further = _LOCAL.unpack(start)
        return _LOCAL.size + int(name) + int(further)

    def _inflated(self, most: int) -> bytes:
        unpack, left, parts, room = zlib.decompressobj(-zlib.MAX_WBITS), self._member.packed, [], most
        try:
            while room and left and (block := self._file.read(min(left, _BLOCK))):
                left -= len(block)
                parts.append(unpack.decompress(unpack.unconsumed_tail + block, room))
                room -= len(parts[-1])
        except zlib.error as error:
            raise self._damaged() from error
        return b"".join(parts)

    def _damaged(self) -> UnfitFile:
        return UnfitFile("it does not fit its header or checksum in the archive: fetch the archive again", self._path)
