"""Functions that open, check and decode picture files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from robustseg.data.errors import DataError, not_permitted

if TYPE_CHECKING:
    from robustseg.data.transforms import Pixels  # imports torch

DEEP_MODES = ("I", "I;16", "F")
"""Pillow's modes of more than 8 bits, which Pillow clips instead of scaling."""

# Pillow's exceptions for files that are truncated, empty or not pictures
PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

_ORIENTATION = 0x0112
"""EXIF's tag of a picture's orientation; 1 means not turned."""
_HOLDS_EXIF = ("exif", "xmp", "Raw profile type exif")
"""Pillow's keys of EXIF data; reading the tag of a PNG without them would decode the picture."""


def open_picture(path: Path) -> Image.Image:
    """Read the header of a picture; the caller closes it.

    Raises:
        DataError: The file is missing, unreadable or no picture.
    """
    try:
        return Image.open(path)
    except PermissionError as error:
        raise not_permitted(path) from error
    except PILLOW_ERRORS as error:
        raise DataError(f"{path} cannot be opened as a picture ({reason(error)}): replace or remove it.") from error


def undecodable(path: Path, error: Exception) -> DataError:
    """Return the error for a file with a sound header and damaged contents."""
    return DataError(f"{path} cannot be decoded ({reason(error)}): replace or remove it.")


def reason(error: Exception) -> str:
    """Return a library's error message in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    return " ".join(str(error).split()) or type(error).__name__


def stored_mode(picture: Image.Image) -> str:
    """Return the mode of a picture as stored, before decoding, in Pillow's words: ``L;4`` for grey values of 4 bits.

    Its ``mode`` does not show this: grey values of 2 and 4 bits are spread over 8, colours of 16 bits are cut to 8.
    """
    tiles = picture.tile if isinstance(picture, ImageFile.ImageFile) else []
    stored = tiles[0][3] if tiles else None
    if isinstance(stored, tuple) and stored:
        stored = stored[0]
    mode: str = stored if isinstance(stored, str) else picture.mode
    return mode


def orientation(picture: Image.Image) -> int:
    """Return a picture's EXIF orientation, 1 to 8; 1 means not turned, and is the default."""
    if not any(name in picture.info for name in _HOLDS_EXIF):
        return 1
    try:
        tag = picture.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, struct.error):  # damaged, so viewers ignore it
        return 1
    return tag if tag in range(2, 9) else 1


def check_image(picture: Image.Image, path: Path, upright: bool = False) -> None:
    """Check that an image has 8 bits per channel.

    Args:
        picture: The picture, not decoded yet.
        path: Its file, for the message.
        upright: Check as well that its EXIF orientation does not turn it.

    Raises:
        DataError: It has more bits, or its EXIF orientation turns it.
    """
    stored = stored_mode(picture)
    if picture.mode in DEEP_MODES or ";16" in stored:
        raise DataError(f"image {path} has more than 8 bits per channel (mode {stored}): convert it to 8 bits.")
    if upright and (turned := orientation(picture)) != 1:
        raise DataError(
            f"image {path} has the EXIF orientation {turned}, by which viewers turn it, and its mask may be made for "
            f"either: {UPRIGHT}."
        )


UPRIGHT = "rotate its pixels and remove the tag (PIL.ImageOps.exif_transpose), so that it is stored as it is shown"
"""Remedy for an image with an EXIF orientation, for messages."""


def decode_image(path: Path, upright: bool = False) -> Pixels:
    """Decode an image to H×W×3 RGB as it is stored, ignoring its EXIF orientation.

    Args:
        path: A picture file.
        upright: Refuse an image that its EXIF orientation turns.

    Raises:
        DataError: It is missing, truncated, turned (see ``upright``), or has more than 8 bits per channel.
    """
    with open_picture(path) as picture:
        check_image(picture, path, upright)
        return decode_rgb(picture, path)


def decode_rgb(picture: Image.Image, path: Path) -> Pixels:
    """Decode an open picture to H×W×3 RGB.

    Raises:
        DataError: It is truncated or damaged.
    """
    try:
        # convert would copy an RGB picture, which takes half as long as decoding
        return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except PILLOW_ERRORS as error:
        raise undecodable(path, error) from error
