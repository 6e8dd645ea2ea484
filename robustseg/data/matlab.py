"""MATLAB 5 files: structs and arrays of numbers, with every size compared with the bytes that are there."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAGIC = b"MATLAB 5.0 MAT-file"
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_STRUCT = 2
_NUMERIC = range(6, 16)
"""Classes of arrays of numbers."""
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Numpy's type of each storage type."""


class MatlabError(ValueError):
    """Error for a file that is damaged, or of another format."""


class _Element(NamedTuple):
    kind: int
    data: memoryview
    end: int
    """Place of what follows it."""


class Matrix(NamedTuple):
    """One variable or field: its header, and the elements that follow it."""

    name: str
    kind: int
    shape: tuple[int, ...]
    parts: memoryview
    order: str
    """Byte order, in numpy's words."""

    @property
    def size(self) -> int:
        """Number of its entries."""
        return prod(self.shape)


def variables(content: bytes, most: int) -> Iterator[Matrix]:
    """Yield the variables of a file.

    Args:
        content: The whole file.
        most: Most bytes of a variable, unpacked.

    Raises:
        MatlabError: It is no MATLAB 5 file, damaged, or a variable is larger.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if not content.startswith(MAGIC) or order is None:
        raise MatlabError("no MATLAB 5 file")
    for element in _elements(memoryview(content)[_HEADER:], order):
        if element.kind == _COMPRESSED:
            element = _next(_elements(_unpacked(element.data, most), order))
        if element.kind == _MATRIX:
            yield _matrix(element.data, order)


def fields(matrix: Matrix) -> dict[str, Matrix]:
    """Return the fields of a struct of one entry; none for anything else.

    Raises:
        MatlabError: It is damaged.
    """
    if matrix.kind != _STRUCT or matrix.size != 1:
        return {}
    parts = _elements(matrix.parts, matrix.order)
    length, names = _next(parts).data, _next(parts).data
    width = int.from_bytes(length, "little" if matrix.order == "<" else "big")
    if width < 1 or len(names) % width:
        raise MatlabError("a struct without names of its fields")
    found = [bytes(names[at : at + width]).split(b"\0")[0] for at in range(0, len(names), width)]
    return {name.decode("latin-1"): _matrix(_next(parts).data, matrix.order) for name in found}


def numbers(matrix: Matrix) -> NDArray[Any] | None:
    """Return an array of numbers as stored, in MATLAB's shape; None for a struct, a text, a sparse or another array.

    Raises:
        MatlabError: There are more or fewer numbers than its shape names.
    """
    if matrix.kind not in _NUMERIC:
        return None
    kind, data, _ = _next(_elements(matrix.parts, matrix.order))
    if kind not in _TYPES:
        raise MatlabError(f"numbers of the unknown type {kind}")
    dtype = np.dtype(matrix.order + _TYPES[kind])
    if len(data) != matrix.size * dtype.itemsize:
        raise MatlabError(f"an array of {matrix.size} numbers in {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(matrix.shape, order="F")


def _matrix(data: memoryview, order: str) -> Matrix:
    if not len(data):  # an empty field
        return Matrix("", 0, (0,), data, order)
    parts = _elements(data, order)
    flags, sides, (_, name, end) = _next(parts).data, _next(parts).data, _next(parts)
    if len(flags) != 8 or len(sides) < 8 or len(sides) % 4:
        raise MatlabError("an array without its shape")
    shape = struct.unpack(f"{order}{len(sides) // 4}i", sides)
    if min(shape) < 0:
        raise MatlabError(f"an array of the shape {shape}")
    kind = struct.unpack(f"{order}I", flags[:4])[0] & 0xFF
    return Matrix(bytes(name).decode("latin-1"), kind, shape, data[end:], order)


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    place = 0
    while len(data) - place >= 8:
        word, size = struct.unpack(f"{order}II", data[place : place + 8])
        if word >> 16:  # a small element, within its own tag
            kind, size, begin, end = word & 0xFFFF, word >> 16, place + 4, place + 8
        else:
            kind, begin = word, place + 8
            end = begin + (size if kind == _COMPRESSED else _padded(size))
        if size > min(end, len(data)) - begin:
            raise MatlabError(f"a part of {size} bytes, where {len(data) - begin} are left")
        yield _Element(kind, data[begin : begin + size], end)
        place = end


def _next(parts: Iterator[_Element]) -> _Element:
    found = next(parts, None)
    if found is None:
        raise MatlabError("a part is missing")
    return found


def _padded(size: int) -> int:
    return -(-size // 8) * 8


def _unpacked(data: memoryview, most: int) -> memoryview:
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, most + 1)
        if not stream.eof and len(content) <= most:
            raise MatlabError("its compressed data end too early")
    except zlib.error as error:
        raise MatlabError(str(error)) from error
    if len(content) > most:
        raise MatlabError(f"more than {most} bytes, unpacked")
    return memoryview(content)
