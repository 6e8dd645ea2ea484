"""Pictures of the formats that data sets have, recognised by their content, within a limit of pixels."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

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
        # libtiff reserves memory for a whole tile
        tile = int(picture.tag_v2.get(322, 1)) * int(picture.tag_v2.get(323, 1))
        if tile > max(4 * pixels, 2**24):
            raise PixelLimit(f"{said}, and a tile of {tile:,} pixels", path, tile)


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
