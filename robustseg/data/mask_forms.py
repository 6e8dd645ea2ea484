"""Storage forms of masks: bits, palettes, colours and transparency, as one table of distinct pixels.

A lossless optimiser keeps what a picture shows and changes the numbers in the file: greys of 0 and 255 become one bit,
greys become a palette in any order. So each distinct pixel has a number as stored and a grey or colour as shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustseg.data.pictures import PILLOW_ERRORS, stored_mode, undecodable
from robustseg.opening.pictures import load_whole

if TYPE_CHECKING:
    from robustseg.data.transforms import Pixels  # imports torch

NONE = -(2**40)
"""Number of a pixel that has none in a reading."""
GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes with one grey value or number per pixel."""
COLOUR_MODES = ("RGB", "RGBA", "LA", "PA")
"""Pillow's modes with colours, or with greys and transparency."""
_LEVELS = {"1": 1, "L;2": 3, "L;4": 15}
"""Largest number that a pixel may hold, of the forms with fewer than 8 bits."""
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class MaskForm:
    """The pixels of a mask, as places in a table of its n distinct ones.

    Args:
        places: H×W, of any integer type.
        distinct: The n places that occur, ascending.
        stored: Number in the file; ``NONE`` for colours, and where 0 is white.
        shown: Grey that viewers show, 0 to 255; ``NONE`` for colours and greys between two of 8 bits.
        wide: The same grey at 16 bits, 0 to 65535.
        colour: Colour that viewers show, as a number of 24 bits; ``NONE`` for greys between two of 8 bits, and for
            indices beyond the end of a palette.
        transparent: True for pixels that viewers do not show at all.
        painted: True if the file may have been made for its colours: a palette, or three channels.
    """

    places: NDArray[Any]
    distinct: Numbers
    stored: Numbers
    shown: Numbers
    wide: Numbers
    colour: Numbers
    transparent: NDArray[np.bool_]
    painted: bool

    def of_distinct(self, labels: NDArray[Any]) -> Pixels:
        """Return the H×W classes from those of the distinct pixels."""
        table = np.zeros(int(self.distinct[-1]) + 1 if len(self.distinct) else 1, np.uint8)
        table[self.distinct] = labels
        return by_table(table, self.places)


def by_table(table: Pixels, values: NDArray[Any]) -> Pixels:
    """Compute ``table[values]``, for 8 bits four times as fast as numpy."""
    if values.dtype != np.uint8:
        picked: Pixels = table[values]
        return picked
    cv2.setNumThreads(0)  # OpenCV's threads do not survive a fork
    whole = table[:256] if len(table) >= 256 else np.pad(table, (0, 256 - len(table)))
    found: Pixels = cv2.LUT(values, whole).astype(np.uint8, copy=False)
    return found


def values_of(picture: Image.Image, path: Path) -> NDArray[Any]:
    """Decode the numbers of an open picture, as Pillow has them.

    Raises:
        DataError: It is truncated or damaged.
    """
    try:
        load_whole(picture)
        return np.array(picture)
    except PILLOW_ERRORS as error:
        raise undecodable(path, error) from error


def is_plain(picture: Image.Image) -> bool:
    """Return whether an opened picture has greys of 8 or 16 bits, all opaque, that are the numbers in the file."""
    stored = stored_mode(picture)
    plain = picture.mode == "L" == stored or (picture.mode.startswith("I;16") and ";I" not in stored)
    return plain and not _scaled(picture) and picture.info.get("transparency") is None


def whole_palette(palette: bytes) -> MaskForm:
    """Return all 256 entries of an opaque palette as distinct pixels, without any place."""
    return _palette_form(np.empty((0, 0), np.uint8), np.arange(256), palette, None)


def palette_of(picture: Image.Image, path: Path) -> bytes:
    """Return red, green and blue of each entry of an opened picture's palette, one after the other.

    Raises:
        DataError: The palette, or the picture that holds it, is damaged.
    """
    palette = picture.palette
    if palette is not None and palette.mode == "RGB" and palette.rawmode in (None, "RGB"):  # None since Pillow 13
        return bytes(palette.palette)
    try:
        load_whole(picture)
        return bytes(picture.getpalette() or [])
    except PILLOW_ERRORS as error:
        raise undecodable(path, error) from error


def form_of(picture: Image.Image, path: Path) -> MaskForm:
    """Decode an open picture of one of the modes above, or with a palette.

    Raises:
        DataError: It is truncated or damaged.
    """
    stored, transparency = stored_mode(picture), picture.info.get("transparency")
    limit = _scaled(picture)
    values = values_of(picture, path)
    transparency = picture.info.get("transparency", transparency)
    if picture.mode == "P":
        return _palette_form(values, _present(values), palette_of(picture, path), transparency)
    if picture.mode in GREY_MODES:
        return _grey_form(values, picture.mode, stored, limit, transparency)
    if picture.mode == "PA":
        values = values_of(picture.convert("RGBA"), path)
    return _colour_form(values, transparency)


def _scaled(picture: Image.Image) -> int:
    """Return the largest number of a PPM file that Pillow scales to 8 or 16 bits; 0 for other files."""
    for tile in getattr(picture, "tile", []):
        if tile[0] in ("ppm", "ppm_plain") and isinstance(tile[3], tuple):
            return int(tile[3][-1])
    return 0


def _present(values: NDArray[Any]) -> Numbers:
    if values.dtype == np.uint8:
        cv2.setNumThreads(0)
        counts = cv2.calcHist([values], [0], None, [256], [0, 256])
        return np.flatnonzero(counts)
    if values.dtype == np.uint16:
        return np.flatnonzero(np.bincount(values.ravel()))
    return np.unique(values).astype(np.int64)


def _grey_form(values: NDArray[Any], mode: str, stored: str, limit: int, transparency: Any) -> MaskForm:
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if limit and mode == "I":
        values = values.astype(np.uint16)
    signed = values.dtype.kind == "i"  # 32 bits, of which no grey is known
    distinct = _present(values)
    full = 1 if mode == "1" else 255 if mode == "L" else 65535
    levels = limit or _LEVELS.get(stored, full)
    numbers = (2 * distinct * levels + full) // (2 * full)
    if ";I" in stored:  # 0 is white, and who wrote it may have meant either
        numbers = np.full_like(distinct, NONE)
    if full == 65535:
        wide, shown = distinct, np.where(distinct % 257 == 0, distinct // 257, NONE)
    else:
        shown = distinct * (255 // full)
        wide = shown * 257
    if signed:
        numbers, shown, wide = distinct, np.full_like(distinct, NONE), np.full_like(distinct, NONE)
    return MaskForm(
        _as_places(values, distinct),
        distinct if not signed else np.arange(len(distinct)),
        numbers,
        shown,
        wide,
        np.where(shown == NONE, NONE, shown * 0x10101),
        numbers == transparency if isinstance(transparency, int) else np.zeros(len(distinct), np.bool_),
        painted=False,
    )


def as_negative(form: MaskForm, stored: str) -> Numbers | None:
    """Return the numbers in a file in which 0 is white, by its mode as stored; None for other files."""
    if ";" not in stored or not stored.endswith("I"):
        return None
    levels = _LEVELS.get(stored.removesuffix("I").removesuffix(";"), 255)
    return np.where(form.shown == NONE, NONE, (255 - form.shown) * levels // 255)


def _as_places(values: NDArray[Any], distinct: Numbers) -> NDArray[Any]:
    """Return the values, or for 32 bits their ranks, since these may be negative or large."""
    return values if values.dtype.kind == "u" else np.searchsorted(distinct, values)


def _palette_form(values: Pixels, distinct: Numbers, palette: bytes, transparency: Any) -> MaskForm:
    filled = palette[:768].ljust(768, b"\0")
    colours = np.frombuffer(filled, np.uint8).reshape(256, 3).astype(np.int64)[distinct]
    inside = distinct < len(palette) // 3  # viewers show any colour, or none, for other indices
    grey = (colours == colours[:, :1]).all(1) & inside
    shown = np.where(grey, colours[:, 0], NONE)
    alpha = np.full(256, 255)
    if isinstance(transparency, bytes):
        alpha[: len(transparency)] = list(transparency[:256])
    elif isinstance(transparency, int):
        alpha[transparency] = 0
    return MaskForm(
        values,
        distinct,
        distinct,
        shown,
        np.where(grey, shown * 257, NONE),
        np.where(inside, colours[:, 0] << 16 | colours[:, 1] << 8 | colours[:, 2], NONE),
        alpha[distinct] == 0,
        painted=True,
    )


def _colour_form(values: Pixels, transparency: Any) -> MaskForm:
    """Return the form of greys with transparency, or of colours with or without it."""
    channels = values.shape[2]
    alpha = values[..., -1] if channels in (2, 4) else None
    colours = values if alpha is None else values[..., :-1]
    grey = channels == 2 or bool((colours == colours[..., :1]).all())
    if grey and (alpha is None or alpha.all()) and transparency is None:
        places: NDArray[Any] = np.ascontiguousarray(colours[..., 0])
        distinct = _present(places)
        codes = distinct * 0x10101
        transparent = np.zeros(len(distinct), np.bool_)
    else:
        wide = codes_of(colours if colours.shape[2] == 3 else colours.repeat(3, 2))
        if alpha is not None:
            wide |= (alpha == 0).astype(np.int32) << 24
        found, places = np.unique(wide, return_inverse=True)
        places, distinct = places.reshape(wide.shape), np.arange(len(found))
        codes, transparent = (found & 0xFFFFFF).astype(np.int64), found >> 24 == 1
        if isinstance(transparency, tuple) and len(transparency) == 3:
            transparent |= codes == (transparency[0] << 16 | transparency[1] << 8 | transparency[2])
    level = codes & 255
    shown = np.where(level * 0x10101 == codes, level, NONE)
    none = np.full_like(distinct, NONE)
    return MaskForm(
        places, distinct, none, shown, np.where(shown == NONE, NONE, shown * 257), codes, transparent, channels != 2
    )


def codes_of(colours: Pixels) -> NDArray[np.int32]:
    """Return H×W numbers of 24 bits for H×W×3 RGB colours."""
    wide = colours.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
