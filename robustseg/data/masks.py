"""The reader of mask files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustseg.data.errors import DataError
from robustseg.data.mask_faults import colour_fault, format_fault, id_fault, mode_fault, palette_fault
from robustseg.data.mask_meaning import RGB, MaskKind, MaskMeaning, check_mask_kind
from robustseg.data.pictures import PILLOW_ERRORS, decode_rgb, open_picture, stored_mode, undecodable
from robustseg.data.sbd import check_sbd_header, read_sbd_mask
from robustseg.data.transforms import Pixels
from robustseg.opening.pictures import MAX_PIXELS

__all__ = ["RGB", "MaskFormat", "MaskKind", "check_mask_kind"]

ID_MODES = ("1", "L", "P", "I", "I;16")
"""Pillow's modes with one number per pixel."""
COLOUR_MODES = ("RGB", "RGBA", "P")
"""Pillow's modes with colours."""
EXACT_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM")
"""Lossless formats, recognised by the content of a file, not by its name."""
SPREAD = {"L;2": 85, "L;4": 17}
"""Factor by which Pillow multiplies grey values of 2 and 4 bits."""


class MaskFormat(MaskMeaning):
    """Format of the masks of a data set, with their reader; the arguments are those of ``MaskMeaning``."""

    def check_header(self, path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int] | None:
        """Return (width, height) in pixels of a mask without decoding it; ``None`` if the header does not tell.

        Raises:
            DataError: The mask is missing, of another format, or has another number of channels.
        """
        if path.suffix.lower() == ".mat":
            check_sbd_header(path)
            return None
        with open_picture(path, max_pixels) as picture:
            self._check_mode(picture, path)
            size: tuple[int, int] = picture.size
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
            DataError: The mask is missing, truncated, or holds other ids or colours than those of the classes.
        """
        if path.suffix.lower() == ".mat":
            return self._classes(read_sbd_mask(path), path)
        with open_picture(path, max_pixels, exact=True) as picture:
            if check_size is not None:
                check_size(picture.size)
            self._check_mode(picture, path)
            if self.kind == "colours":
                return self._classes_of_colours(decode_rgb(picture, path), path)
            spread = SPREAD.get(stored_mode(picture))
            try:
                values = np.array(picture)
            except PILLOW_ERRORS as error:
                raise undecodable(path, error) from error
            palette = picture.getpalette() if picture.mode == "P" else None
        if palette and (fault := palette_fault(path, values, palette, self)):
            raise DataError(fault)
        if values.dtype == np.bool_:
            values = values.astype(np.uint8)
        return self._classes(values if spread is None else values // np.uint8(spread), path)

    def _check_mode(self, picture: Image.Image, path: Path) -> None:
        if picture.format not in EXACT_FORMATS:
            raise DataError(format_fault(path, picture.format or "picture", self))
        if self.kind == "colours" and ";16" in stored_mode(picture):
            raise DataError(f"mask {path} has more than 8 bits per channel: convert it to 8 bits.")
        if picture.mode not in (ID_MODES if self.kind == "ids" else COLOUR_MODES):
            pixels = decode_rgb(picture, path) if picture.mode in COLOUR_MODES else None
            raise DataError(mode_fault(path, picture.mode, pixels, self))

    def _classes(self, values: NDArray[Any], path: Path) -> Pixels:
        known = self.known
        if values.dtype == np.uint8:
            good = bool(_by_table(known[:256].view(np.uint8), values).all())
        else:
            good = values.size == 0 or bool(
                values.min() >= 0 and values.max() < len(known) and known[values.astype(np.int64)].all()
            )
        if not good:
            raise DataError(id_fault(path, [int(value) for value in np.unique(values)], self))
        if self.table is None:
            return values.astype(np.uint8, copy=False)
        labels: Pixels = self.table[values] if values.dtype != np.uint8 else _by_table(self.table[:256], values)
        return labels

    def _classes_of_colours(self, pixels: Pixels, path: Path) -> Pixels:
        wide = pixels.astype(np.int32)
        values = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
        codes, classes = self.codes
        place = np.searchsorted(codes, values).clip(max=len(codes) - 1)
        if (foreign := codes[place] != values).any():
            raise DataError(colour_fault(path, values[foreign], values.size, self))
        labels: Pixels = classes[place]
        return labels


def _by_table(table: Pixels, values: Pixels) -> Pixels:
    """Compute ``table[values]``, four times as fast as numpy."""
    cv2.setNumThreads(0)  # OpenCV's threads do not survive a fork
    found: Pixels = cv2.LUT(values, table).astype(np.uint8, copy=False)
    return found
