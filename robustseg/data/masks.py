"""What the numbers, or the colours, of a mask file mean, and reading them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustseg.data.errors import DataError
from robustseg.data.mask_faults import colour_fault, format_fault, id_fault, mode_fault, palette_fault
from robustseg.data.pictures import PILLOW_ERRORS, decode_rgb, open_picture, stored_mode, undecodable
from robustseg.data.sbd import check_sbd_header, read_sbd_mask
from robustseg.data.transforms import Pixels
from robustseg.types import IGNORE_INDEX

MaskKind = Literal["ids", "colours"]
"""Whether the pixels of the masks are class ids or the RGB colours of the classes."""

ID_MODES = ("1", "L", "P", "I", "I;16")
"""Pillow's modes with one number per pixel."""
COLOUR_MODES = ("RGB", "RGBA", "P")
"""Pillow's modes with colours."""
EXACT_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM")
"""Of files, whatever they are called, that give back the numbers that were written."""
SPREAD = {"L;2": 85, "L;4": 17}
"""Factor by which Pillow multiplies grey values of 2 and 4 bits."""
RGB = tuple[int, int, int]
"""Red, green and blue from 0 to 255."""


def check_mask_kind(kind: MaskKind) -> MaskKind:
    """Return ``kind``.

    Raises:
        ValueError: It is none.
    """
    if kind not in ("ids", "colours"):
        raise ValueError(f"masks = {kind!r}: set data.masks to ids or colours.")
    return kind


@dataclass(frozen=True)
class MaskFormat:
    """What the masks of a data set hold.

    Args:
        class_names: Names of the classes in the order of their ids.
        class_of: Class, or the ignore index, of each id that a file may hold; any other id is an error.
        colours: RGB colour of each class and of void pixels, with the class or the ignore index: what masks of
            ``kind`` ``"colours"`` hold, and by what wrong files are recognised.
        kind: ``"ids"`` or ``"colours"``.
        hint: Gets the ids of a mask with foreign ones and says where they may come from, or ``None``.
        painted: Whether the data set can also be read by colours, so that messages may advise it.
    """

    class_names: tuple[str, ...]
    class_of: Mapping[int, int]
    colours: Mapping[RGB, int]
    kind: MaskKind = "ids"
    hint: Callable[[Collection[int]], str | None] | None = None
    painted: bool = True

    @classmethod
    def of_classes(
        cls,
        classes: Sequence[tuple[str, RGB]],
        void_ids: Sequence[int] = (IGNORE_INDEX,),
        void_colours: Sequence[RGB] = (),
        **settings: Any,
    ) -> MaskFormat:
        """Masks in which id k is class k.

        Args:
            classes: Name and colour of each class.
            void_ids: Ids of pixels that belong to no class.
            void_colours: Colours of such pixels.
            **settings: ``kind``, ``hint`` and ``painted``.

        Raises:
            ValueError: Two classes have the same colour, and the masks are to be read by colours.
        """
        shared = {colour for _, colour in classes if sum(colour == other for _, other in classes) > 1}
        if shared and settings.get("kind") == "colours":
            names = " and ".join(name for name, colour in classes if colour == min(shared))
            raise ValueError(f"masks = 'colours': {names} have the same colour {min(shared)}; set data.masks to ids.")
        colours = {colour: number for number, (_, colour) in enumerate(classes) if colour not in shared}
        return cls(
            tuple(name for name, _ in classes),
            {**{number: number for number in range(len(classes))}, **dict.fromkeys(void_ids, IGNORE_INDEX)},
            {**dict.fromkeys(void_colours, IGNORE_INDEX), **colours},
            **settings,
        )

    @cached_property
    def meaning(self) -> tuple[object, ...]:
        """All that decides which classes are read from a file."""
        return self.class_names, sorted(self.class_of.items()), sorted(self.colours.items()), self.kind

    @cached_property
    def _known(self) -> NDArray[np.bool_]:
        known = np.zeros(max(255, *self.class_of) + 1, dtype=np.bool_)
        known[list(self.class_of)] = True
        return known

    @cached_property
    def _table(self) -> Pixels | None:
        """Class by id; ``None`` where the files hold it already."""
        if all(number == label for number, label in self.class_of.items()):
            return None
        table = np.full(len(self._known), IGNORE_INDEX, np.uint8)
        table[list(self.class_of)] = list(self.class_of.values())
        return table

    @cached_property
    def _codes(self) -> tuple[NDArray[np.int32], Pixels]:
        """Colours as sorted numbers, and their classes."""
        codes = np.array([red << 16 | green << 8 | blue for red, green, blue in self.colours], np.int32)
        order = np.argsort(codes)
        return codes[order], np.array(list(self.colours.values()), np.uint8)[order]

    def check_header(self, path: Path) -> tuple[int, int] | None:
        """(width, height) in pixels of a mask, without decoding it; ``None`` where that does not say.

        Raises:
            DataError: It is missing, of another format, or has another number of channels.
        """
        if path.suffix.lower() == ".mat":
            check_sbd_header(path)
            return None
        with open_picture(path) as picture:
            self._check_mode(picture, path)
            size: tuple[int, int] = picture.size
            return size

    def read(self, path: Path) -> Pixels:
        """Decode an H×W mask to class ids, in which void is the ignore index.

        Raises:
            DataError: It is missing, cut short, or holds something else than the ids, or colours, of the classes.
        """
        if path.suffix.lower() == ".mat":
            return self._classes(read_sbd_mask(path), path)
        with open_picture(path) as picture:
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
        known = self._known
        if values.dtype == np.uint8:
            good = bool(_by_table(known[:256].view(np.uint8), values).all())
        else:
            good = values.size == 0 or bool(
                values.min() >= 0 and values.max() < len(known) and known[values.astype(np.int64)].all()
            )
        if not good:
            raise DataError(id_fault(path, [int(value) for value in np.unique(values)], self))
        if self._table is None:
            return values.astype(np.uint8, copy=False)
        labels: Pixels = self._table[values] if values.dtype != np.uint8 else _by_table(self._table[:256], values)
        return labels

    def _classes_of_colours(self, pixels: Pixels, path: Path) -> Pixels:
        wide = pixels.astype(np.int32)
        values = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
        codes, classes = self._codes
        place = np.searchsorted(codes, values).clip(max=len(codes) - 1)
        if (foreign := codes[place] != values).any():
            raise DataError(colour_fault(path, values[foreign], values.size, self))
        labels: Pixels = classes[place]
        return labels


def _by_table(table: Pixels, values: Pixels) -> Pixels:
    """``table[values]``, four times as fast as numpy."""
    cv2.setNumThreads(0)  # they do not survive a fork
    found: Pixels = cv2.LUT(values, table).astype(np.uint8, copy=False)
    return found
