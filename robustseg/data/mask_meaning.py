"""The meaning of a mask file's numbers, or colours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from robustseg.data.mask_forms import NONE, MaskForm, Numbers
from robustseg.data.transforms import Pixels
from robustseg.types import IGNORE_INDEX

MaskKind = Literal["ids", "colours", "stored", "shown"]
"""Kind of the mask pixels: class ids, or RGB colours of the classes. Ids may be the numbers as stored, palette indices
among them, or the greys that viewers show; ``"stored"`` and ``"shown"`` admit one of these only."""
MASK_KINDS = ("ids", "colours", "stored", "shown")

RGB = tuple[int, int, int]
"""Red, green and blue from 0 to 255."""

Meaning = TypeVar("Meaning", bound="MaskMeaning")


def check_mask_kind(kind: MaskKind) -> MaskKind:
    """Return ``kind``.

    Raises:
        ValueError: It is not one of :data:`MaskKind`.
    """
    if kind not in MASK_KINDS:
        raise ValueError(f"masks = {kind!r}: set data.masks to ids or colours (or, of ids, to stored or shown).")
    return kind


@dataclass(frozen=True)
class Reading:
    """One way to read a mask.

    Args:
        name: ``"stored"``, ``"shown"`` or ``"colours"``.
        labels: Class, or the ignore index, of each distinct pixel of a :class:`MaskForm`.
        void: True if transparent pixels belong to no class, whatever their colour.
    """

    name: Literal["stored", "shown", "colours"]
    labels: Numbers
    void: bool = False


@dataclass(frozen=True)
class MaskMeaning:
    """Meaning of the numbers or colours in the masks of a data set.

    Args:
        class_names: Names of the classes in the order of their ids.
        class_of: Class, or the ignore index, of each id that a file may hold; any other id is an error.
        colours: RGB colour of each class and of void pixels, with the class or the ignore index: the content of masks
            of ``kind`` ``"colours"``, and the marks of wrong files.
        kind: ``"ids"``, ``"colours"``, ``"stored"`` or ``"shown"``, see :data:`MaskKind`.
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
    def plain(self) -> bool:
        """True if greys of 8 and 16 bits whose numbers are all ids have no other reading."""
        return self.kind == "ids" and max(self.class_of) <= 255

    def agrees(self, palette: MaskForm) -> bool:
        """Return whether the numbers of a palette are the only reading of any mask in which they all are ids."""
        stored = self.labels_of_ids(palette.stored)
        ids, colours = stored != NONE, self.labels_of_colours(palette.colour)
        if self.kind != "ids" or (colours == stored)[ids].all():
            return self.kind == "ids"
        shown, wide = self.labels_of_ids(palette.shown), self.labels_of_ids(palette.wide)
        return not any(((each != stored) & (each != NONE))[ids].any() for each in (colours, shown, wide))

    def readings(self, form: MaskForm) -> list[Reading]:
        """Return all ways to read a mask that the table admits and that differ in a pixel's class.

        Numbers as stored are read first. Colours of the classes are a reading of ids as well, for palettes and RGB:
        they tell indices that are not ids. Transparent pixels may be void where only what is shown can be read.
        """
        found = {} if self.kind in ("colours", "shown") else {"stored": self.labels_of_ids(form.stored)}
        if self.kind in ("ids", "shown"):
            found |= {"shown": self.labels_of_ids(form.shown), "wide": self.labels_of_ids(form.wide)}
        if self.kind == "colours" or (self.kind == "ids" and form.painted):
            found["colours"] = self.labels_of_colours(form.colour)
        if "stored" in found and _known(found["stored"]):
            admitted = [Reading("stored", found["stored"])]
            if "colours" in found and (found["colours"] == found["stored"]).all():
                return admitted  # what the palette shows is another name of the same classes
            others = [name for name in found if name != "stored" and not _merges(form)]
        else:
            admitted, others = [], [name for name in found if name != "stored"]
        voids = not admitted and self._has_void and bool(form.transparent.any())
        for name in others:
            label = cast('Literal["shown", "colours"]', "shown" if name == "wide" else name)
            if _known(found[name]):
                admitted.append(Reading(label, found[name]))
            void = np.where(form.transparent, IGNORE_INDEX, found[name])
            if voids and _known(void):
                admitted.append(Reading(label, void, void=True))
        different: dict[bytes, Reading] = {}
        for reading in admitted:
            different.setdefault(reading.labels.tobytes(), reading)
        return list(different.values())

    @cached_property
    def _has_void(self) -> bool:
        return IGNORE_INDEX in self.class_of.values() or IGNORE_INDEX in self.colours.values()

    def labels_of_ids(self, numbers: Numbers) -> Numbers:
        """Return the classes of ids, and ``NONE`` for those that the table does not have."""
        inside = (numbers >= 0) & (numbers < len(self.known))
        inside[inside] = self.known[numbers[inside]]
        labels = np.full(len(numbers), NONE, np.int64)
        labels[inside] = numbers[inside] if self.table is None else self.table[numbers[inside]]
        return labels

    def labels_of_colours(self, numbers: Numbers) -> Numbers:
        """Return the classes of colours of 24 bits, and ``NONE`` for those that the table does not have."""
        codes, classes = self.codes
        if not len(codes):
            return np.full(len(numbers), NONE, np.int64)
        place = np.searchsorted(codes, numbers).clip(max=len(codes) - 1)
        return np.where(codes[place] == numbers, classes[place].astype(np.int64), NONE)

    @cached_property
    def codes(self) -> tuple[NDArray[np.int32], Pixels]:
        """Colours as sorted numbers, and their classes."""
        codes = np.array([red << 16 | green << 8 | blue for red, green, blue in self.colours], np.int32)
        order = np.argsort(codes)
        return codes[order], np.array(list(self.colours.values()), np.uint8)[order]


def _known(labels: Numbers) -> bool:
    return bool((labels != NONE).all())


def _merges(form: MaskForm) -> bool:
    """Return whether different numbers look alike, so that what is shown cannot be what is meant."""
    seen = form.colour * 2 + form.transparent
    return len(np.unique(seen)) < len(seen) and bool((form.colour != NONE).all())
