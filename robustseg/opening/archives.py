"""Zip archives: checkpoints, whose parts are stored, and arrays in ``.npz`` files."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from robustseg.opening.regular import open_regular, size_in_words

ARRAYS = 2**30
"""Most bytes of the arrays of a file, unpacked."""

_START = b"PK\x03\x04"
"""First bytes of an archive."""
_FOLDER = 0x10
"""MS-DOS attribute of a folder, in an archive's entry."""
_PLAIN_KINDS = "biufc"
"""Kinds of numpy's types that are numbers."""


def damage(file: BinaryIO) -> str | None:
    """Return the fault in the bytes of a file of tensors, as the rest of a sentence; None if they are intact.

    An archive is compared with the checksums that torch writes into it. A flipped bit is missed only in unused bytes:
    in a date, or between two records.

    Args:
        file: The open file, which :func:`~robustseg.opening.regular.open_regular` opened.
    """
    size = os.fstat(file.fileno()).st_size
    if not size:
        return "is empty (zero bytes)"
    if has_index(file):
        return _damaged_record(file, size)
    file.seek(0)
    return "is truncated, or damaged at its end" if file.read(len(_START)) == _START else None


def has_index(file: BinaryIO) -> bool:
    """Return whether a file ends with an archive's index, which a truncated one lacks."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:
        return False


def _damaged_record(file: BinaryIO, size: int) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                return "is a compressed archive, and torch.save writes no such files: save it again with torch.save"
            if len({record.filename for record in records}) < len(records):
                return "is damaged (in its index: two records of one name)"
            if sum(record.file_size for record in records) > size:
                return f"is damaged (in its index: records of more than the file's {size_in_words(size)})"
            # torch treats a record marked as a folder as empty, and returns uninitialised memory.
            if any(record.external_attr & _FOLDER for record in records):
                return "is damaged (in its index)"
            # torch writes zeros where its user has switched the checksums off.
            bad = archive.testzip() if any(record.CRC for record in records) else None
    except OSError:
        raise
    except Exception as error:  # from the archive's headers, which may hold any values
        return f"is damaged (in its index: {type(error).__name__})"
    return None if bad is None else f"is damaged (in its record {bad})"


def record_sizes(file: BinaryIO) -> list[int] | None:
    """Return the sizes of an archive's records in bytes; None for another file."""
    if not has_index(file):
        return None
    with zipfile.ZipFile(file) as archive:
        return [record.file_size for record in archive.infolist()]


def record_names(file: BinaryIO) -> list[str]:
    """Return the names of an archive's records, without the folder that all are in; none for another file."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except OSError:
        raise
    except Exception:  # from the archive's headers, which may hold any values
        return []
    top = {name.partition("/")[0] for name in names}
    return [name.partition("/")[2] or name for name in names] if len(top) == 1 else names


def read_arrays(path: str | os.PathLike[str], most: int = ARRAYS) -> Mapping[str, np.ndarray[Any, Any]]:
    """Read the arrays of an ``.npz`` file, of numbers only, executing nothing in it.

    Args:
        path: The file.
        most: Most bytes, unpacked, of all arrays.

    Raises:
        OSError: There is no such file, or it is no regular file.
        ValueError: It is no archive of arrays, damaged or larger than ``most``.
    """
    with open_regular(path, most) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                records = archive.infolist()
                if sum(record.file_size for record in records) > most:
                    raise ValueError(f"its arrays have more than {size_in_words(most)}")
                return {record.filename.removesuffix(".npy"): _array(archive, record) for record in records}
        except (OSError, ValueError, MemoryError):
            raise
        except Exception as error:  # from damaged headers: BadZipFile, zlib's, NotImplementedError and others
            raise ValueError(f"it is no file of arrays ({error})") from error


def _array(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    with archive.open(record) as file:
        content = file.read(record.file_size + 1)
    start = io.BytesIO(content)
    version = np.lib.format.read_magic(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, kind = read(start)
    count, begin = 1, start.tell()
    for side in shape:
        count *= side
    if kind.kind not in _PLAIN_KINDS or count * kind.itemsize != len(content) - begin:
        raise ValueError(f"{record.filename} does not hold the numbers that its header names")
    values: np.ndarray[Any, Any] = np.frombuffer(content, kind, offset=begin).copy()
    return values.reshape(shape, order="F" if fortran else "C")
