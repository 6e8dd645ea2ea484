"""Functions that open, check and decode picture files."""

from __future__ import annotations

import struct
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from robustseg.data.errors import DataError, not_permitted
from robustseg.opening import pictures as opening
from robustseg.opening.pictures import MAX_PIXELS, PixelLimit
from robustseg.opening.regular import UnfitFile

if TYPE_CHECKING:
    from robustseg.data.transforms import Pixels  # imports torch

ImageForm = Literal["grey", "alpha", "16bit", "cmyk", "bands"]
"""Form of an image other than RGB of 8 bits: greys, transparency, 16 bits per channel, inks, more than three bands."""
EXACT: tuple[ImageForm, ...] = ("grey", "alpha")
"""Forms that become RGB without a change of a colour: greys are repeated, transparency is left out."""
_HOW = {
    "grey": "repeats the grey in all channels",
    "alpha": "leaves the transparency out",
    "16bit": "takes the upper 8 bits",
    "cmyk": "converts inks to colours without a profile",
    "bands": "takes the first three bands",
}

# Pillow's exceptions for files that are truncated, empty or not pictures
PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    Image.DecompressionBombError,
)

_ORIENTATION = 0x0112
"""EXIF's tag of a picture's orientation; 1 means not turned."""
_HOLDS_EXIF = ("exif", "xmp", "Raw profile type exif")
"""Pillow's keys of EXIF data; reading the tag of a PNG without them would decode the picture."""


def open_picture(
    path: Path, max_pixels: int = MAX_PIXELS, dense: bool = False, exact: bool = False
) -> AbstractContextManager[ImageFile.ImageFile]:
    """Open a picture and read its header, for a ``with`` statement.

    Args:
        path: The file.
        max_pixels: Most pixels.
        dense: Refuse a large picture of hardly any content as well.
        exact: Compare a PNG file with its checksums.

    Raises:
        DataError: The file is missing, unreadable, no picture or too large.
    """
    try:
        return opening.open_picture(path, max_pixels, dense, exact)
    except PixelLimit as error:
        memory = error.pixels * opening.BYTES_PER_PIXEL / 1e9
        raise DataError(
            f"{path} is not decoded: {error.strerror}. In every data worker it takes about {memory:.1f} GB: set "
            f"data.max_pixels: {error.pixels} if that is right, or cut it into tiles; if not, the file is damaged."
        ) from error
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
        return f"unknown format, {error}"
    if isinstance(error, UnfitFile):
        return str(error.strerror or error)
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
    if picture.format != "TIFF" and not any(name in picture.info for name in _HOLDS_EXIF):
        return 1
    try:
        tag = picture.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, struct.error):  # damaged, so viewers ignore it
        return 1
    return tag if tag in range(2, 9) else 1


def frames_of(picture: Image.Image, path: Path) -> int:
    """Return the number of pictures in a file.

    Raises:
        DataError: It is damaged.
    """
    try:
        return int(getattr(picture, "n_frames", 1))
    except PILLOW_ERRORS as error:
        raise undecodable(path, error) from error


def check_forms(forms: Collection[str]) -> tuple[ImageForm, ...]:
    """Return ``forms``.

    Raises:
        ValueError: One is not an :data:`ImageForm`.
    """
    for form in forms:
        if form not in _HOW:
            raise ValueError(f"convert = {list(forms)!r}: set data.convert to some of {', '.join(_HOW)}.")
    return tuple(form for form in get_args(ImageForm) if form in forms)


def image_forms(picture: Image.Image) -> list[ImageForm]:
    """Return all forms of an opened image in which it differs from RGB of 8 bits."""
    mode, stored = picture.mode, stored_mode(picture)
    found: list[ImageForm] = []
    if ";16" in stored or mode.startswith("I;16") or (mode == "I" and picture.format in ("PPM", "PNG")):
        found.append("16bit")
    if mode in ("1", "L", "LA", "I") or mode.startswith("I;16"):
        found.append("grey")
    if mode in ("LA", "PA", "RGBA") or picture.info.get("transparency") is not None:
        found.append("alpha")
    if mode == "CMYK":
        found.append("cmyk")
    if picture.format == "TIFF" and "X" in stored:
        found.append("bands")
    return found


def check_image(
    picture: Image.Image, path: Path, upright: bool = False, convert: Collection[ImageForm] = EXACT
) -> None:
    """Check that an image is RGB of 8 bits, or in a form that may be converted to it.

    Args:
        picture: The picture, not decoded yet.
        path: Its file, for the message.
        upright: Check as well that its EXIF orientation does not turn it.
        convert: Forms that may be converted.

    Raises:
        DataError: It has another form, several pictures, or its EXIF orientation turns it.
    """
    stored, forms = stored_mode(picture), image_forms(picture)
    for form in forms:
        if form not in convert:
            more = "has more than 8 bits per channel" if form == "16bit" else f"has another form than RGB: {form}"
            raise DataError(
                f"image {path} {more} (mode {stored}): convert it to 8 bits of RGB, or add {form} to data.convert, "
                f"which {_HOW[form]}."
            )
    if picture.mode in ("F", "I", "LAB", "HSV") and "16bit" not in forms:
        raise DataError(f"image {path} holds no colours of 8 bits per channel (mode {stored}): convert it to 8 bits.")
    if picture.format != "MPO" and (frames := frames_of(picture, path)) > 1:
        raise DataError(f"image {path} holds {frames} pictures, of which one can be read: save each as a file.")
    if upright and (turned := orientation(picture)) != 1:
        raise DataError(
            f"image {path} has the EXIF orientation {turned}, by which viewers turn it, and its mask may be made for "
            f"either: {UPRIGHT}."
        )


UPRIGHT = "rotate its pixels and remove the tag (PIL.ImageOps.exif_transpose), so that it is stored as it is shown"
"""Remedy for an image with an EXIF orientation, for messages."""


def decode_image(
    path: Path, upright: bool = False, convert: Collection[ImageForm] = EXACT, max_pixels: int = MAX_PIXELS
) -> Pixels:
    """Decode an image to H×W×3 RGB as it is stored, ignoring its EXIF orientation.

    Args:
        path: A picture file.
        upright: Refuse an image that its EXIF orientation turns.
        convert: Forms that may be converted to RGB of 8 bits.
        max_pixels: Most pixels.

    Raises:
        DataError: It is missing, truncated, turned (see ``upright``), or has a form that may not be converted.
    """
    with open_picture(path, max_pixels, dense=True) as picture:
        check_image(picture, path, upright, convert)
        deep = picture.mode == "I" or picture.mode.startswith("I;16")
        return _upper_bits(picture, path) if deep else decode_rgb(picture, path)


def _upper_bits(picture: Image.Image, path: Path) -> Pixels:
    """Decode greys of 16 bits to H×W×3 of 8 bits; Pillow cuts colours of 16 bits itself, in the same way."""
    try:
        opening.load_whole(picture)
        upper = (np.array(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
    except PILLOW_ERRORS as error:
        raise undecodable(path, error) from error
    return np.repeat(upper[..., None], 3, 2)


def decode_rgb(picture: Image.Image, path: Path) -> Pixels:
    """Decode an open picture to H×W×3 RGB.

    Raises:
        DataError: It is truncated or damaged.
    """
    try:
        opening.load_whole(picture)
        # convert would copy an RGB picture, which takes half as long as decoding
        return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except PILLOW_ERRORS as error:
        raise undecodable(path, error) from error
