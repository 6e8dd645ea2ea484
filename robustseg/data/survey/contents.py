"""Contents of surveyed pairs: sizes, forms, ids and colours with their shares, and problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from robustseg.data.errors import DataError
from robustseg.data.mask_forms import COLOUR_MODES, GREY_MODES, NONE, MaskForm, form_of
from robustseg.data.pairing import FilePair
from robustseg.data.pictures import EXACT, ImageForm, check_image, image_forms, open_picture, orientation, stored_mode

_MOST = 256
"""Most ids or colours that a mask can have; more come from smoothing, from JPEG, or from a photo."""
_EXACT = ("PNG", "TIFF", "BMP", "GIF", "PPM")


@dataclass
class Contents:
    """Counts over the files that were read."""

    read: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    image_forms: Counter[str] = field(default_factory=Counter)
    mask_forms: Counter[str] = field(default_factory=Counter)
    stored: Counter[int] = field(default_factory=Counter)
    """Pixels of each number in the files."""
    shown: Counter[int] = field(default_factory=Counter)
    """Pixels of each grey that viewers show."""
    colours: Counter[int] = field(default_factory=Counter)
    """Pixels of each colour that viewers show, as numbers of 24 bits."""
    colour_of: dict[int, set[int]] = field(default_factory=dict)
    """Colours of each index of a palette."""
    whole: set[int] = field(default_factory=set)
    """Greys of masks whose numbers are also what they show: 8 bits, or 16 that are not repeated bytes."""
    few_bits: int = 0
    """Masks of fewer than 8 bits."""
    painted: int = 0
    """Masks of three channels that are not all grey."""
    transparent: int = 0
    converted: Counter[str] = field(default_factory=Counter)
    """Images of each form that data.convert must name."""
    problems: list[str] = field(default_factory=list)

    def add(self, pair: FilePair) -> None:
        """Read the header of an image and the whole of its mask; what cannot be read is a problem."""
        self.read += 1
        try:
            size = self._image(pair.image)
            form, mode = self._mask(pair.mask, size)
        except DataError as error:
            self.problems.append(str(error))
            return
        self._count(form, mode)

    def _image(self, path: Path) -> tuple[int, int]:
        with open_picture(path) as picture:
            self.sizes[picture.size] += 1
            self.image_forms[f"{picture.format} {stored_mode(picture)}"] += 1
            check_image(picture, path, convert=get_args(ImageForm))
            if forms := [form for form in image_forms(picture) if form not in EXACT]:
                self.converted.update(forms)
            if (turned := orientation(picture)) != 1:
                self.problems.append(f"image {path} has the EXIF orientation {turned}, by which viewers turn it.")
            size: tuple[int, int] = picture.size
            return size

    def _mask(self, path: Path, size: tuple[int, int]) -> tuple[MaskForm, str]:
        with open_picture(path) as picture:
            mode, stored = picture.mode, stored_mode(picture)
            self.mask_forms[f"{picture.format} {'palette' if mode == 'P' else stored}"] += 1
            if picture.size != size:
                width, height = picture.size
                raise DataError(f"mask {path} is {width}x{height} pixels, but its image is {size[0]}x{size[1]}.")
            if picture.format not in _EXACT:
                self.problems.append(f"mask {path} is a {picture.format}, whose compression changes pixels.")
            if mode not in (*GREY_MODES, *COLOUR_MODES, "P") or (mode in COLOUR_MODES and ";16" in stored):
                raise DataError(f"mask {path} has the colour mode {stored}: save its ids as a single-channel PNG.")
            form = form_of(picture, path)
            if len(form.distinct) > _MOST:
                raise DataError(
                    f"mask {path} has {len(form.distinct)} ids or colours: so many come from smoothing or JPEG, or it "
                    f"is a photo."
                )
            return form, "few" if mode == "1" or stored in ("L;2", "L;4") else mode

    def _count(self, form: MaskForm, mode: str) -> None:
        places = np.searchsorted(form.distinct, form.places.ravel())
        counts = np.bincount(places, minlength=len(form.distinct)).tolist()
        for column, counter in ((form.stored, self.stored), (form.shown, self.shown), (form.colour, self.colours)):
            for value, count in zip(column.tolist(), counts, strict=True):
                if value != NONE:
                    counter[value] += count
        if mode == "P":
            for index, colour in zip(form.stored.tolist(), form.colour.tolist(), strict=True):
                self.colour_of.setdefault(index, set()).add(colour)
        grey = bool((form.shown != NONE).all())
        self.painted += mode in COLOUR_MODES and not grey
        self.few_bits += mode == "few"
        self.transparent += bool(form.transparent.any())
        if mode != "few" and mode != "P" and grey:
            self.whole |= set(form.shown.tolist())


def contents_of(pairs: Sequence[FilePair], most: int) -> Contents:
    """Read at most ``most`` pairs, evenly spread."""
    places = np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(int))
    found = Contents()
    for place in places:
        found.add(pairs[place])
    return found
