"""Opening and decoding picture files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from robustseg.data.errors import DataError
from robustseg.data.transforms import Pixels

DEEP_MODES = ("I", "I;16", "F")
"""Pillow's modes that do not fit 8 bits and that it clips instead of scaling."""

# what Pillow raises on files that are cut short, empty or no pictures at all
PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def open_picture(path: Path) -> Image.Image:
    """Read the header of a picture; the caller closes it.

    Raises:
        DataError: It is missing or no picture.
    """
    try:
        return Image.open(path)
    except PILLOW_ERRORS as error:
        raise DataError(f"{path} cannot be opened as a picture ({reason(error)}): replace or remove it.") from error


def undecodable(path: Path, error: Exception) -> DataError:
    """The error for a file whose header is sound and whose contents are not."""
    return DataError(f"{path} cannot be decoded ({reason(error)}): replace or remove it.")


def reason(error: Exception) -> str:
    """What a library had to say, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    return " ".join(str(error).split()) or type(error).__name__


def check_image_mode(picture: Image.Image, path: Path) -> None:
    """Check that an image has 8 bits per channel.

    Raises:
        DataError: It has more.
    """
    if picture.mode in DEEP_MODES:
        raise DataError(f"image {path} has more than 8 bits per channel (mode {picture.mode}): convert it to 8 bits.")


def decode_image(path: Path) -> Pixels:
    """Decode an image to H×W×3 RGB.

    Raises:
        DataError: It is missing, cut short, or has more than 8 bits per channel.
    """
    with open_picture(path) as picture:
        check_image_mode(picture, path)
        return decode_rgb(picture, path)


def decode_rgb(picture: Image.Image, path: Path) -> Pixels:
    """Decode an open picture to H×W×3 RGB.

    Raises:
        DataError: It is cut short.
    """
    try:
        # convert would copy, which takes half as long as decoding
        return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except PILLOW_ERRORS as error:
        raise undecodable(path, error) from error
