"""Masks of the Semantic Boundaries Dataset, which are MATLAB 5 files.

They are read here, by MathWorks' description of the format (MAT-File Format, chapter 1, level 5), and not by scipy:
files that were cut short or altered make ``scipy.io.loadmat`` 1.17 crash the process.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustseg.data.errors import DataError, not_permitted
from robustseg.data.transforms import Pixels

_MAGIC = b"MATLAB 5.0 MAT-file"
_HEADER = 128
"""Bytes before the first variable; the last two of them tell the order of bytes."""
_UINT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 2, 5, 6, 14, 15
"""Types of elements."""
_STRUCT, _NUMBERS = 2, range(6, 14)
"""Classes of arrays; numbers of any class may be kept as 8-bit elements."""
_MOST = 1 << 26
"""Bytes that a variable may have when it is unpacked; SBD's have less than a million."""


class _Damaged(Exception):
    """The bytes are no MATLAB 5 data."""


class _Element(NamedTuple):
    type: int
    data: memoryview


class _Array(NamedTuple):
    kind: int
    shape: tuple[int, ...]
    name: str
    parts: list[_Element]


def check_sbd_header(path: Path) -> None:
    """Check that a file begins as a MATLAB 5 file does.

    Raises:
        DataError: It is missing or does not.
    """
    _check_start(_content(path, _HEADER + 1), path)


def read_sbd_mask(path: Path) -> Pixels:
    """Decode ``GTcls.Segmentation``: H×W ids, 0 for the background and 1 to 20 for VOC's classes.

    Args:
        path: A file of SBD's folder ``cls``; of ``inst``, whose numbers are objects, it is refused.

    Raises:
        DataError: It is missing, damaged, or holds something else.
    """
    content = _content(path)
    _check_start(content, path)
    order = "<" if content[_HEADER - 2 : _HEADER] == b"IM" else ">"
    try:
        variables = {array.name: array for array in _variables(content[_HEADER:], order)}
        if "GTcls" not in variables:
            found = (
                "GTinst, the objects: take SBD's folder cls" if "GTinst" in variables else "no GTcls: unpack SBD again"
            )
            raise DataError(f"{path} holds {found}.")
        return _segmentation(variables["GTcls"], order)
    except _Damaged as error:
        raise DataError(f"{path} cannot be decoded ({error}): unpack SBD again.") from error


def _content(path: Path, size: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except PermissionError as error:
        raise not_permitted(path) from error
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}): unpack SBD again.") from error


def _check_start(content: bytes, path: Path) -> None:
    if not content.startswith(_MAGIC) or len(content) <= _HEADER:
        raise DataError(f"{path} is no MATLAB 5 file, as SBD's masks are: unpack SBD again.")


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """The elements that stand one after the other in ``data``."""
    place = 0
    while place < len(data):
        if place + 8 > len(data):
            raise _Damaged("it ends within an element")
        kind, size = struct.unpack_from(f"{order}II", data, place)
        start = place + 8
        if kind >> 16:  # up to four bytes beside a type and a size of two bytes each
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            place = start + 4
        else:
            # compressed variables are the only ones that are not padded
            place = start + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data) or (start == place - 4 and size > 4):
            raise _Damaged("it ends within an element")
        yield _Element(kind, data[start : start + size])


def _variables(content: bytes, order: str) -> Iterator[_Array]:
    for element in _elements(memoryview(content), order):
        if element.type == _COMPRESSED:
            yield from (_array(inner, order) for inner in _elements(memoryview(_unpacked(element.data)), order))
        else:
            yield _array(element, order)


def _unpacked(data: memoryview) -> bytes:
    unpack = zlib.decompressobj()
    try:
        unpacked = unpack.decompress(data, _MOST)
    except zlib.error as error:
        raise _Damaged(str(error)) from error
    if not unpack.eof:
        raise _Damaged("its compressed data have no end")
    return unpacked


def _array(element: _Element, order: str) -> _Array:
    """Flags, shape and name of an array, and the elements with its contents."""
    if element.type != _MATRIX:
        raise _Damaged(f"an element of type {element.type} in place of an array")
    parts = list(_elements(element.data, order))
    if len(parts) < 3:
        raise _Damaged("an array without head")
    flags, shape, name, *parts = parts
    if flags.type != _UINT32 or len(flags.data) != 8 or shape.type != _INT32 or len(shape.data) % 4:
        raise _Damaged("an array without flags or shape")
    kind = struct.unpack_from(f"{order}I", flags.data)[0] & 0xFF
    sizes = struct.unpack(f"{order}{len(shape.data) // 4}i", shape.data)
    return _Array(kind, sizes, bytes(name.data).decode("latin-1"), parts)


def _segmentation(labels: _Array, order: str) -> Pixels:
    fields = _fields(labels, order)
    if "Segmentation" not in fields:
        raise _Damaged("a GTcls without Segmentation")
    mask = _array(fields["Segmentation"], order)
    if mask.kind not in _NUMBERS or len(mask.shape) != 2 or [part.type for part in mask.parts] != [_UINT8]:
        raise _Damaged("a GTcls.Segmentation that is no array of 8-bit ids")
    height, width = mask.shape
    if min(height, width) < 1 or height * width != len(mask.parts[0].data):
        raise _Damaged("a GTcls.Segmentation of another size than it says")
    columns = np.frombuffer(mask.parts[0].data, np.uint8).reshape(width, height)
    return np.ascontiguousarray(columns.T)


def _fields(record: _Array, order: str) -> dict[str, _Element]:
    """Fields of a structure of one record."""
    if record.kind != _STRUCT or record.shape != (1, 1) or len(record.parts) < 2 or len(record.parts[0].data) != 4:
        return {}
    length = struct.unpack(f"{order}i", record.parts[0].data)[0]
    names = bytes(record.parts[1].data)
    if length < 1 or len(names) != length * (len(record.parts) - 2):
        raise _Damaged("a structure with other fields than names")
    cut = (names[start : start + length].split(b"\0")[0].decode("latin-1") for start in range(0, len(names), length))
    return dict(zip(cut, record.parts[2:], strict=True))
