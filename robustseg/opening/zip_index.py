"""Directory of a zip archive."""

from __future__ import annotations

import io
import stat
import zipfile
from typing import BinaryIO, cast

from robustseg.opening.index import Index, Member
from robustseg.opening.system import size_in_words

_DIRECTORY = 2**27
"""Most bytes of the directory."""
_ENCRYPTED = 0x1
_METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "zstd", 95: "xz"}


class _Limited:
    """A file that refuses to be read in large parts, since zipfile reads a directory as a whole."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, count: int = -1) -> bytes:
        if count > _DIRECTORY:
            raise ValueError(f"its directory has more than {size_in_words(_DIRECTORY)}")
        return self._read(count if count >= 0 else _DIRECTORY)


def zip_index(file: BinaryIO, archive: str) -> Index:
    """Read the directory at the end of a zip archive, of more than 4 GiB as well.

    Args:
        file: The open archive.
        archive: Its path, for messages.

    Raises:
        UnfitFile: It is no zip archive, truncated, or its members have names that it cannot be unpacked by.
    """
    index, size = Index(archive), file.seek(0, io.SEEK_END)
    try:
        with zipfile.ZipFile(cast("BinaryIO", _Limited(file))) as opened:
            found = opened.infolist()
    except OSError:
        raise
    except Exception as error:  # from damaged headers: BadZipFile, struct's, NotImplementedError and others
        raise index.unfit(f"it is truncated, damaged or no zip or tar archive ({error}): fetch it again") from error
    for entry in found:
        if entry.header_offset < 0 or entry.header_offset + entry.compress_size > size:
            raise index.unfit(f"it is truncated or damaged at its member {entry.filename}: fetch it again")
        index.add(entry.orig_filename, None if entry.orig_filename.endswith("/") else _member(entry))
    return index


def _member(entry: zipfile.ZipInfo) -> Member:
    deflated = entry.compress_type == zipfile.ZIP_DEFLATED
    fault = ""
    if entry.flag_bits & _ENCRYPTED:
        fault = "it is encrypted: unpack the archive with its password"
    elif not deflated and entry.compress_type != zipfile.ZIP_STORED:
        method = _METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        fault = f"it is compressed by {method}, and only deflated and stored members are read in place: unpack the zip"
    elif stat.S_ISLNK(entry.external_attr >> 16):
        fault = "it is a link: unpack the archive"
    elif not deflated and entry.compress_size != entry.file_size:
        fault = "its two sizes in the archive differ: fetch the archive again"
    return Member(entry.header_offset, entry.compress_size, entry.file_size, deflated, entry.CRC, fault)
