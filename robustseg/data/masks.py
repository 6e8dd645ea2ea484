"""The reader of mask files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustseg.data.errors import DataError
from robustseg.data.mask_faults import (
    colour_fault,
    format_fault,
    frames_fault,
    id_fault,
    mode_fault,
    negative_fault,
    palette_fault,
    readings_fault,
)
from robustseg.data.mask_forms import (
    COLOUR_MODES,
    GREY_MODES,
    NONE,
    MaskForm,
    as_negative,
    by_table,
    codes_of,
    form_of,
    is_plain,
    palette_of,
    values_of,
    whole_palette,
)
from robustseg.data.mask_meaning import RGB, MaskKind, MaskMeaning, check_mask_kind
from robustseg.data.mask_palettes import Palettes
from robustseg.data.pictures import UPRIGHT, decode_rgb, frames_of, open_picture, orientation, stored_mode
from robustseg.data.sbd import check_sbd_header, read_sbd_mask
from robustseg.data.transforms import Pixels
from robustseg.opening.pictures import MAX_PIXELS

__all__ = ["RGB", "MaskFormat", "MaskKind", "check_mask_kind"]

EXACT_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM")
"""Lossless formats, recognised by the content of a file, not by its name."""
_PALETTES = 64
"""Most palettes whose results are kept."""
_LOSSY = ("jpeg", "tiff_jpeg", "webp", "jpeg2000")
"""Compressions within a TIFF that change pixels."""


class MaskFormat(MaskMeaning):
    """Format of the masks of a data set, with their reader; the arguments are those of ``MaskMeaning``."""

    def check_header(
        self, path: Path, palettes: Palettes | None = None, max_pixels: int = MAX_PIXELS
    ) -> tuple[int, int] | None:
        """Return (width, height) in pixels of a mask without decoding it; ``None`` if the header does not tell.

        Colours in place of ids are decoded, since they may be greys, and greys in place of colours.

        Args:
            path: The mask.
            palettes: Palettes of the data set's other masks.
            max_pixels: Most pixels.

        Raises:
            DataError: The mask is missing, of another format, has another number of channels, or a palette that
                contradicts those of other masks.
        """
        if path.suffix.lower() == ".mat":
            check_sbd_header(path)
            return None
        with open_picture(path, max_pixels) as picture:
            self._check_mode(picture, path)
            size: tuple[int, int] = picture.size
            if picture.mode in (GREY_MODES if self.kind == "colours" else COLOUR_MODES):
                self._read(picture, path)
            if palettes is not None and self.kind == "ids":
                palettes.add(picture, path)
            return size

    def read(
        self, path: Path, check_size: Callable[[tuple[int, int]], None] | None = None, max_pixels: int = MAX_PIXELS
    ) -> Pixels:
        """Decode an H×W mask to class ids, with void as the ignore index.

        Args:
            path: The file.
            check_size: Function of (width, height) that refuses a mask of another size, before it is decoded.
            max_pixels: Most pixels.

        Raises:
            DataError: The mask is missing, truncated, holds other ids or colours than those of the classes, or the
                table admits two readings of it.
        """
        if path.suffix.lower() == ".mat":
            values = read_sbd_mask(path)
            labels = self._classes(values)
            if labels is None:
                raise DataError(id_fault(path, np.unique(values).tolist(), self))
            return labels
        with open_picture(path, max_pixels, exact=True) as picture:
            if check_size is not None:
                check_size(picture.size)
            self._check_mode(picture, path)
            return self._read(picture, path)

    def _check_mode(self, picture: Image.Image, path: Path) -> None:
        compression = picture.info.get("compression", "") if picture.format == "TIFF" else ""
        if picture.format not in EXACT_FORMATS or compression in _LOSSY:
            raise DataError(format_fault(path, f"{picture.format} {compression.upper()}".strip(), self))
        if picture.format == "TIFF" and picture.mode == "L" and _is_signed(picture):
            raise DataError(f"mask {path} has signed numbers of 8 bits: save it with unsigned ones, as PNG has.")
        if (turned := orientation(picture)) != 1:
            raise DataError(
                f"mask {path} has the orientation {turned}, by which viewers turn it, and its image may fit either: "
                f"{UPRIGHT}."
            )
        if (frames := frames_of(picture, path)) > 1:
            raise DataError(frames_fault(path, frames))
        if ";16" in stored_mode(picture) and (self.kind == "colours" or picture.mode not in GREY_MODES):
            raise DataError(f"mask {path} has more than 8 bits per channel: convert it to 8 bits.")
        if picture.mode not in (*GREY_MODES, *COLOUR_MODES, "P"):
            raise DataError(mode_fault(path, picture.mode, None, self))

    def _read(self, picture: Image.Image, path: Path) -> Pixels:
        if self._is_certain(picture, path):
            labels = self._classes(values_of(picture, path))
            if labels is not None:
                return labels
        if self.kind == "colours" and picture.mode == "RGB" and "transparency" not in picture.info:
            return self._classes_of_colours(decode_rgb(picture, path), path)
        mode = picture.mode
        stored, form = stored_mode(picture), form_of(picture, path)
        readings = self.readings(form)
        if not readings:
            raise DataError(self._unknown(form, mode, path))
        if len(readings) > 1:
            moved = mode == "P" and readings[0].name == "stored" and readings[-1].name == "colours"
            told = palette_fault if moved else readings_fault
            raise DataError(told(path, form, readings, self))
        if self.kind == "ids" and readings[0].name == "colours":
            if mode == "P":
                raise DataError(palette_fault(path, form, readings, self))
            raise DataError(mode_fault(path, mode, form.colour, self))
        numbers = as_negative(form, stored) if self.kind == "ids" else None
        if numbers is not None:
            labels_of_numbers = self.labels_of_ids(numbers)
            if (labels_of_numbers != NONE).all() and (labels_of_numbers != readings[0].labels).any():
                raise DataError(negative_fault(path))
        return form.of_distinct(readings[0].labels)

    def _is_certain(self, picture: Image.Image, path: Path) -> bool:
        """Return whether the numbers of a mask, if they all are ids, have no other reading."""
        if picture.mode != "P":
            return self.plain and is_plain(picture)
        if picture.info.get("transparency") is not None:
            return False
        palette = palette_of(picture, path)
        if palette not in self._agreed:
            if len(self._agreed) > _PALETTES:
                self._agreed.clear()
            self._agreed[palette] = self.agrees(whole_palette(palette))
        return self._agreed[palette]

    @cached_property
    def _agreed(self) -> dict[bytes, bool]:
        """Results of :meth:`agrees` by palette, since most masks of a data set have the same."""
        return {}

    def _unknown(self, form: MaskForm, mode: str, path: Path) -> str:
        """Return the message about a mask that has no reading."""
        if self.kind == "colours":
            if not form.painted:
                return mode_fault(path, mode, form.colour, self)
            if mode == "P" and (beyond := form.stored[form.colour == NONE]).size:
                return f"mask {path} has the index {beyond[0]}, for which its palette has no colour: export it again."
            codes = form.colour[np.searchsorted(form.distinct, form.places)]
            foreign = codes[self.labels_of_colours(codes.ravel()).reshape(codes.shape) == NONE]
            return colour_fault(path, foreign.astype(np.int32), codes.size, self)
        tried = (form.stored,) if self.kind == "stored" else (form.stored, form.shown)
        numbers = next((each for each in tried if (each != NONE).all()), None)
        if numbers is None or (mode in COLOUR_MODES and form.painted):
            return mode_fault(path, mode, form.colour, self)
        return id_fault(path, sorted({int(number) for number in numbers}), self)

    def _classes(self, values: NDArray[Any]) -> Pixels | None:
        """Return the classes of numbers, or None if some are no ids."""
        known = self.known
        if values.dtype == np.uint8:
            good = bool(by_table(known.view(np.uint8), values).all())
        else:
            good = values.size == 0 or bool(values.max() < len(known) and known[values.astype(np.int64)].all())
        if not good:
            return None
        return values.astype(np.uint8, copy=False) if self.table is None else by_table(self.table, values)

    def _classes_of_colours(self, pixels: Pixels, path: Path) -> Pixels:
        values = codes_of(pixels)
        codes, classes = self.codes
        place = np.searchsorted(codes, values).clip(max=len(codes) - 1)
        if (foreign := codes[place] != values).any():
            raise DataError(colour_fault(path, values[foreign], values.size, self))
        labels: Pixels = classes[place]
        return labels


def _is_signed(picture: Image.Image) -> bool:
    """Return whether a TIFF file says that its numbers may be negative, which Pillow overlooks for those of 8 bits."""
    return 2 in getattr(picture, "tag_v2", {}).get(339, ())
