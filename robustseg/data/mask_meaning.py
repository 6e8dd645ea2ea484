"""The meaning of a mask file's numbers, or colours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from robustseg.data.transforms import Pixels
from robustseg.types import IGNORE_INDEX

MaskKind = Literal["ids", "colours"]
"""Kind of the mask pixels: class ids, or RGB colours of the classes."""

RGB = tuple[int, int, int]
"""Red, green and blue from 0 to 255."""

Meaning = TypeVar("Meaning", bound="MaskMeaning")


def check_mask_kind(kind: MaskKind) -> MaskKind:
    """Return ``kind``.

    Raises:
        ValueError: It is not one of :data:`MaskKind`.
    """
    if kind not in ("ids", "colours"):
        raise ValueError(f"masks = {kind!r}: set data.masks to ids or colours.")
    return kind


@dataclass(frozen=True)
class MaskMeaning:
    """Meaning of the numbers or colours in the masks of a data set.

    Args:
        class_names: Names of the classes in the order of their ids.
        class_of: Class, or the ignore index, of each id that a file may hold; any other id is an error.
        colours: RGB colour of each class and of void pixels, with the class or the ignore index: the content of masks
            of ``kind`` ``"colours"``, and the marks of wrong files.
        kind: ``"ids"`` or ``"colours"``.
        hint: Function of the ids of a mask with unknown ones that returns their possible origin, or ``None``.
        painted: True if the data set can also be read by colours, so that messages may advise it.
    """

    class_names: tuple[str, ...]
    class_of: Mapping[int, int]
    colours: Mapping[RGB, int]
    kind: MaskKind = "ids"
    hint: Callable[[Collection[int]], str | None] | None = None
    painted: bool = True

    @classmethod
    def of_classes(
        cls: type[Meaning],
        classes: Sequence[tuple[str, RGB]],
        void_ids: Sequence[int] = (IGNORE_INDEX,),
        void_colours: Sequence[RGB] = (),
        **settings: Any,
    ) -> Meaning:
        """Return the meaning of masks with id k for class k.

        Args:
            classes: Name and colour of each class.
            void_ids: Ids of pixels that belong to no class.
            void_colours: Colours of pixels that belong to no class.
            **settings: ``kind``, ``hint`` and ``painted``.

        Raises:
            ValueError: Two classes have the same colour, and ``kind`` is ``"colours"``.
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
        """Return all values that determine the classes read from a file."""
        return self.class_names, sorted(self.class_of.items()), sorted(self.colours.items()), self.kind

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """True for each id that a file may hold, indexed by id."""
        known = np.zeros(max(255, *self.class_of) + 1, dtype=np.bool_)
        known[list(self.class_of)] = True
        return known

    @cached_property
    def table(self) -> Pixels | None:
        """Class by id; ``None`` if the files hold the classes already."""
        if all(number == label for number, label in self.class_of.items()):
            return None
        table = np.full(len(self.known), IGNORE_INDEX, np.uint8)
        table[list(self.class_of)] = list(self.class_of.values())
        return table

    @cached_property
    def codes(self) -> tuple[NDArray[np.int32], Pixels]:
        """Colours as sorted numbers, and their classes."""
        codes = np.array([red << 16 | green << 8 | blue for red, green, blue in self.colours], np.int32)
        order = np.argsort(codes)
        return codes[order], np.array(list(self.colours.values()), np.uint8)[order]
