"""Diagnosis of faulty masks from their contents, with remedies."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustseg.data.mask_forms import GREY_MODES, MaskForm, Numbers
from robustseg.data.mask_meaning import MaskMeaning, Reading
from robustseg.types import IGNORE_INDEX


def id_fault(path: Path, present: Sequence[int], masks: MaskMeaning) -> str:
    """Return the message about a mask with unknown ids.

    Args:
        path: The mask.
        present: All ids in it, in ascending order.
        masks: Expected content of the mask.
    """
    unknown = [value for value in present if value not in masks.class_of]
    cause = masks.hint(present) if masks.hint is not None else None
    cause = cause or _objects(unknown) or _scaled(present, masks)
    cause = cause or "convert it to these ids, or choose the data set that it belongs to."
    return f"mask {path} holds the ids {_some(unknown)}, which are outside the {_known(masks)}: {cause}"


def _known(masks: MaskMeaning) -> str:
    names = masks.class_names
    ids = [number for number, label in masks.class_of.items() if label != IGNORE_INDEX]
    void = sorted(number for number, label in masks.class_of.items() if label == IGNORE_INDEX)
    return f"{len(names)} classes {_ranges(ids)} ({names[0]} to {names[-1]}; void: {_ranges(void) or 'none'})"


def _ranges(numbers: Collection[int]) -> str:
    """Format ``[7, 8, 9, 11]`` as ``7-9, 11``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def _objects(unknown: Sequence[int]) -> str | None:
    if unknown[-1] <= 255:
        return None
    return (
        "numbers above 255 are objects, depths or scaled values rather than classes: choose the files of class ids, "
        "or convert them to 8 bits with one id per class."
    )


def _scaled(present: Sequence[int], masks: MaskMeaning) -> str | None:
    """Return a remark if the ids were spread over all grey values to make them visible; otherwise None."""
    levels = len(set(masks.class_of) - {IGNORE_INDEX})
    for count in range(max(2, len(masks.class_names)), levels + 2):
        step = 255 / (count - 1)
        apart = len({round(value / step) for value in present}) == len(present) and present[-1] >= step - 1
        if step >= 4 and apart and all(abs(value / step - round(value / step)) * step <= 1 for value in present):
            return (
                f"they are evenly spread, as if ids had been scaled to 0-255 (by {step:.4g}): save the ids themselves."
            )
    step = int(np.gcd.reduce(list(present)))
    if step > 1 and len(present) > 1 and present[-1] // step <= levels:
        return f"they are evenly spread, as if ids had been multiplied by {step}: save the ids themselves."
    return None


def _by_colours(masks: MaskMeaning) -> str:
    return "set data.masks to colours" if masks.painted else "save the ids of these classes in a single-channel PNG"


def format_fault(path: Path, name: str, masks: MaskMeaning) -> str:
    """Return the message about a mask in a format that may not preserve the written numbers.

    Args:
        path: The mask.
        name: Pillow's name for the format.
        masks: Expected content of the mask.
    """
    called = f" called {path.suffix}" if path.suffix else ""
    changed = "colours" if masks.kind == "colours" else "ids"
    return f"mask {path} is a {name}{called}, whose compression changes {changed}: export it as PNG."


def frames_fault(path: Path, frames: int) -> str:
    """Return the message about a file with several pictures."""
    return f"mask {path} holds {frames} pictures, and only one of them can be the mask: save that one as PNG."


def mode_fault(path: Path, mode: str, codes: Numbers | None, masks: MaskMeaning) -> str:
    """Return the message about a mask with another number of channels.

    Args:
        path: The mask.
        mode: Pillow's name for its channels.
        codes: Its distinct colours as numbers of 24 bits, if it has colours instead of the expected ids.
        masks: Expected content of the mask.
    """
    if masks.kind == "colours":
        expected = f"mask {path} has the colour mode {mode}; expected the RGB colours of the classes (masks: colours)"
        if mode == "LA":
            return f"{expected}: save its first channel as a single-channel PNG and set data.masks to ids."
        if mode == "CMYK":
            return f"{expected}: convert it to RGB, or export it again."
        return f"{expected}: set data.masks to ids if it holds one id per pixel."
    expected = f"mask {path} has the colour mode {mode}; expected one class id per pixel"
    if masks.kind == "stored" and mode != "F":
        return f"{expected}, stored as a number: export it as a single-channel PNG of ids, or set data.masks to ids."
    if mode == "F":
        return f"{expected}: save its ids as whole numbers in a single-channel PNG of 8 bits."
    if codes is None or mode in GREY_MODES:
        return f"{expected}: export it as a single-channel PNG of ids."
    colours = {_triple(int(code)) for code in np.unique(codes)}
    if all(red == green == blue for red, green, blue in colours):
        greys = _some(sorted({red for red, _, _ in colours} - masks.class_of.keys()))
        return f"{expected}: its channels are equal and hold {greys}, which are outside the {_known(masks)}."
    known = colours & masks.colours.keys()
    if known == colours:
        labels = sorted({masks.colours[colour] for colour in known} - {IGNORE_INDEX})
        names = ", ".join(masks.class_names[label] for label in labels[:3]) + (" ..." if len(labels) > 3 else "")
        return f"{expected}: its colours are those of the classes ({names}), so {_by_colours(masks)}."
    if len(known) > 1:
        return (
            f"{expected}: {len(known)} of its {len(colours)} colours are those of classes and others, such as "
            f"{min(colours - known)}, are not: export it again without smoothing and with these classes, then "
            f"{_by_colours(masks)}."
        )
    return f"{expected}: convert it to a single-channel PNG."


def palette_fault(path: Path, form: MaskForm, readings: Sequence[Reading], masks: MaskMeaning) -> str:
    """Return the message about a palette with the classes' colours and indices other than their ids.

    Args:
        path: The mask.
        form: Its contents.
        readings: All ways to read it; the last is that by its colours.
        masks: Expected content of the mask.
    """
    stored, labels = masks.labels_of_ids(form.stored), readings[-1].labels
    place = int(np.flatnonzero(stored != labels)[0])
    colour, label = _triple(int(form.colour[place])), int(labels[place])
    name = "void" if label == IGNORE_INDEX else f"class {label}, {masks.class_names[label]},"
    return (
        f"mask {path} is a palette PNG whose indices are not ids: its index {form.stored[place]} has the colour "
        f"{colour}, which is that of {name} in this data set; {_by_colours(masks)}."
    )


def readings_fault(path: Path, form: MaskForm, readings: Sequence[Reading], masks: MaskMeaning) -> str:
    """Return the message about a mask that the table admits two readings of.

    Args:
        path: The mask.
        form: Its contents.
        readings: All ways to read it.
        masks: Expected content of the mask.
    """
    first, second = readings[:2]
    place = int(np.flatnonzero(first.labels != second.labels)[0])
    told = " or ".join(
        f"{_told(reading, form, place)} {_name(int(reading.labels[place]), masks)}" for reading in (first, second)
    )
    if second.void:
        remedy = "give these pixels the colour of void or of their class and save it without transparency"
    elif second.name == "colours":
        remedy = f"set data.masks to shown if it holds greys that are ids, or {_by_colours(masks)}"
    elif first.name == second.name:
        remedy = "save the ids themselves in a PNG of 16 bits, or take one of the two ids out of the table"
    else:
        remedy = f"set data.masks to {first.name} or to {second.name}, or take one of the two ids out of the table"
    return f"mask {path} can be read in two ways, as some of its pixels are {told}: {remedy}."


def negative_fault(path: Path) -> str:
    """Return the message about a mask in which 0 is white, if the table has its numbers and its greys."""
    return (
        f"mask {path} can be read in two ways, as 0 is white in this file and its numbers are ids as well as its "
        f"greys: set data.masks to shown if the greys are ids, or export it as a PNG of ids."
    )


def _told(reading: Reading, form: MaskForm, place: int) -> str:
    if reading.void:
        return "transparent and so"
    if reading.name == "stored":
        return f"stored as {form.stored[place]} and so"
    if reading.name == "colours":
        return f"of the colour {_triple(int(form.colour[place]))} and so"
    return f"shown as the grey {form.shown[place] if form.shown[place] >= 0 else form.wide[place]} and so"


def _name(label: int, masks: MaskMeaning) -> str:
    return "void" if label == IGNORE_INDEX else f"class {label} ({masks.class_names[label]})"


def colour_fault(path: Path, foreign: NDArray[np.int32], pixels: int, masks: MaskMeaning) -> str:
    """Return the message about a mask with colours of no class.

    Args:
        path: The mask.
        foreign: The pixels of such colours, as numbers of 24 bits.
        pixels: Number of all pixels.
        masks: Expected content of the mask.
    """
    codes, counts = np.unique(foreign, return_counts=True)
    examples = [_triple(int(codes[row])) for row in np.argsort(-counts, kind="stable")[:3]]
    shown = ", ".join(map(str, examples)) + (f" and {len(codes) - 3} more" if len(codes) > 3 else "")
    if all(red == green == blue for red, green, blue in map(_triple, codes.tolist())):
        remedy = "greys are rather ids: set data.masks to ids."
    elif len(codes) > 3 * len(masks.class_names) + 16:
        remedy = "so many come from smoothing or JPEG: export it again without either."
    else:
        remedy = "add them to the table of classes, or choose the data set that it belongs to."
    share = 100 * len(foreign) / pixels
    shown_share = f"{share:.2g}" if share < 10 else f"{share:.0f}"
    return f"mask {path} holds {shown} in {shown_share} % of its pixels, which are the colours of no class: {remedy}"


def _triple(code: int) -> tuple[int, int, int]:
    return code >> 16, code >> 8 & 255, code & 255
