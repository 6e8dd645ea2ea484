"""Pictures of the formats that data sets have, recognised by their content, within a limit of pixels."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, BinaryIO

# each registers its format with Pillow
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from robustseg.opening.regular import PICTURE, UnfitFile, open_regular, size_in_words

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP")
"""Pillow's names of the formats; others may start other programs, as EPS does."""
MAX_PIXELS = 178_956_970
"""Most pixels of a picture, by default: Pillow's own limit."""
BYTES_PER_PIXEL = 10
"""Memory for decoding an RGB picture and making an array of it, as measured with Pillow 13."""

ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""Errors for files that are truncated, empty or not pictures."""

_ERRORS = (SyntaxError, IndexError, TypeError, struct.error)
"""Pillow's errors for a file that begins like a format and is another one."""
_EMPTY_PIXELS = 2**25
"""Pixels above which a picture needs a byte of its file for each :data:`_PER_BYTE` of them."""
_PER_BYTE = 100
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and their steps, of each pass of an interlaced PNG file."""
_LONG_FILE = 2**26
"""Bytes above which the parts of a file are looked at before it is read."""
_LONG_CHUNK = 2**24
"""Most bytes of a part of a PNG file that is no pixels."""


class PixelLimit(UnfitFile):
    """Error for a picture that is too large by its header, which is all that was read."""

    def __init__(self, reason: str, path: str | os.PathLike[str] | None = None, pixels: int = 0) -> None:
        super().__init__(reason, path)
        self.pixels = pixels
        """Number of pixels by the header."""


def open_picture(
    path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, dense: bool = False, exact: bool = False
) -> AbstractContextManager[ImageFile.ImageFile]:
    """Open a picture and read its header; the pixels are decoded on first use, within the context.

    Args:
        path: The file.
        max_pixels: Most pixels.
        dense: Refuse a large picture with hardly any content as well, as no photograph is; not with a raised limit.
        exact: Compare a PNG file with its checksums, which Pillow does not for the pixels.

    Raises:
        OSError: There is no such file, it is no regular file, of an unknown format, or too large (:class:`PixelLimit`).
        SyntaxError, ValueError, EOFError: Its header is damaged.
    """
    file = open_regular(path, max(PICTURE, 8 * max_pixels))
    try:
        picture = _decoder(file, path, exact)
        _check_size(picture, file, path, max_pixels, dense)
    except BaseException:
        file.close()
        raise
    return _closing(picture, file)


def load_whole(picture: Image.Image) -> None:
    """Decode the pixels of an open picture, all of which must be in its file: Pillow takes absent ones for zeros.

    Raises:
        OSError: It is truncated or damaged, or its pixels end too early (:class:`UnfitFile`).
        SyntaxError, ValueError, EOFError: It is damaged.
    """
    file = getattr(picture, "fp", None)
    picture.load()
    if picture.format != "PNG" or file is None:
        return
    width, height = picture.size
    empty = picture.crop((0, height - 1, width, height)).getbbox(alpha_only=False) is None
    if empty or picture.info.get("interlace"):
        _check_length(file, width, height)


def _check_length(file: BinaryIO, width: int, height: int) -> None:
    """Compare the bytes of a PNG file's pixels, unpacked, with those of its size."""
    file.seek(24)
    bits, colours, _, _, interlaced = file.read(5)
    depth = bits * {2: 3, 4: 2, 6: 4}.get(colours, 1)
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sides = [(-((x - width) // across), -((y - height) // down)) for x, y, across, down in passes]
    left = sum(rows * (1 + (columns * depth + 7) // 8) for columns, rows in sides if columns > 0)
    stream, place, kind = zlib.decompressobj(), 33, b""
    while left > 0 and kind != b"IEND":
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        place += 12 + length
        block = file.read(length) if kind == b"IDAT" else b""
        while block:
            left -= len(stream.decompress(block, 1 << 20))
            block = stream.unconsumed_tail
        if stream.eof:
            break
    if left > 0:
        raise UnfitFile("its pixels end too early")


def parse_picture(content: bytes, formats: tuple[str, ...] = ("PNG",)) -> AbstractContextManager[Image.Image]:
    """Read the header of a picture in memory; errors as for :func:`open_picture`, which Pillow's limit is among."""
    return Image.open(io.BytesIO(content), formats=formats)


@contextmanager
def _closing(picture: ImageFile.ImageFile, file: io.BufferedReader) -> Iterator[ImageFile.ImageFile]:
    with file, picture:
        yield picture


def _decoder(file: io.BufferedReader, path: str | os.PathLike[str], exact: bool) -> ImageFile.ImageFile:
    """Return Pillow's object for a file; unlike ``Image.open``, its limit of pixels is that of this module."""
    start = file.read(16)
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        verdict = accepts is None or accepts(start)
        if not verdict or isinstance(verdict, str):  # a text says that this Pillow was built without the format
            continue
        if name == "PNG":
            _check_chunks(file, path, exact)
        file.seek(0)
        try:
            return factory(file, str(path))
        except _ERRORS:
            continue
    raise UnidentifiedImageError(f"none of {', '.join(FORMATS)}")


def _check_size(
    picture: ImageFile.ImageFile, file: io.BufferedReader, path: str | os.PathLike[str], max_pixels: int, dense: bool
) -> None:
    width, height = picture.size
    pixels = width * height
    if pixels <= min(max_pixels, _EMPTY_PIXELS) and picture.format != "TIFF":
        return
    said = f"it has {width}x{height} = {pixels:,} pixels by its header"
    if pixels > max_pixels:
        raise PixelLimit(f"{said}, more than {max_pixels:,}", path, pixels)
    size = file.seek(0, io.SEEK_END)
    if dense and max_pixels == MAX_PIXELS and pixels > max(_EMPTY_PIXELS, _PER_BYTE * size):
        raise PixelLimit(f"{said}, in a file of {size_in_words(size)}", path, pixels)
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        _check_parts(picture, said, path)


def _check_parts(picture: TiffImagePlugin.TiffImageFile, said: str, path: str | os.PathLike[str]) -> None:
    """Refuse a TIFF file whose tiles are larger than the picture, or whose tiles or strips do not cover it."""
    tags, (width, height) = picture.tag_v2, picture.size
    across, down = int(tags.get(322, width)), int(tags.get(323, tags.get(278, height)))
    # libtiff reserves memory for a whole tile
    if 322 in tags and across * down > max(4 * width * height, 2**24):
        raise PixelLimit(f"{said}, and a tile of {across * down:,} pixels", path, across * down)
    planes = int(tags.get(277, 1)) if tags.get(284) == 2 else 1
    expected = planes * -(-width // max(across, 1)) * -(-height // max(down, 1))
    if (found := len(tags.get(324, tags.get(273, ())))) < expected:
        raise UnfitFile(f"it has {found} of {expected} parts of its pixels", path)


def _check_chunks(file: io.BufferedReader, path: str | os.PathLike[str], exact: bool) -> None:
    """Refuse a long PNG file with a long part that is no pixels, as Pillow reads each of these as a whole.

    Args:
        file: The open file.
        path: Its path, for messages.
        exact: Compare each part of a file of any length with its checksum.
    """
    size = file.seek(0, io.SEEK_END)
    place, kind = 8, b""
    while (exact or size > _LONG_FILE) and place + 8 <= size and kind != b"IEND":
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind not in (b"IDAT", b"fdAT") and length > _LONG_CHUNK:
            raise UnfitFile(f"its part {kind!r} has {size_in_words(length)}", path)
        place += 12 + length
        if exact and place <= size:
            found, left = zlib.crc32(kind), length
            while left and (block := file.read(min(left, 1 << 20))):
                found, left = zlib.crc32(block, found), left - len(block)
            if file.read(4) != struct.pack(">I", found):
                raise UnfitFile(f"its part {kind!r} does not fit its checksum", path)
