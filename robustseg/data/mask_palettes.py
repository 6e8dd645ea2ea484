"""Palettes of a data set's masks, compared with each other."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from robustseg.data.errors import DataError
from robustseg.data.mask_forms import palette_of


class Palettes:
    """Index of each colour in the palettes of masks whose indices are ids.

    An optimiser that reorders palettes changes ids without a trace in the single file. The set shows it: a colour that
    stands for one id in one mask stands for another in the next.
    """

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._places: dict[bytes, tuple[int, Path]] = {}

    def add(self, picture: Image.Image, path: Path) -> None:
        """Compare the palette of an opened mask with all before; greys say nothing, and other pictures have none.

        Raises:
            DataError: A colour has another index than in an earlier mask, or the mask is damaged.
        """
        content = palette_of(picture, path) if picture.mode == "P" else b""
        if content in self._seen:
            return
        self._seen.add(content)
        colours = [content[start : start + 3] for start in range(0, len(content) - 2, 3)]
        once = {colour: index for index, colour in enumerate(colours) if colours.count(colour) == 1}
        for colour, index in once.items():
            if len(set(colour)) == 1:
                continue
            other, first = self._places.setdefault(colour, (index, path))
            if other != index:
                raise DataError(
                    f"masks {first} and {path} are palette pictures whose palettes contradict each other: the colour "
                    f"{tuple(colour)} is index {other} in one and {index} in the other, as after an optimiser that "
                    f"reorders palettes. Set data.masks to colours if the colours are those of the classes, or to "
                    f"stored if the indices are ids all the same."
                )
