"""Proposal for a surveyed folder: how to read its masks, a class table and the settings of ``FolderPairs``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from shlex import quote

from robustseg.data.facts.voc import voc_colour
from robustseg.data.pairing import NAME
from robustseg.data.survey.contents import Contents
from robustseg.data.survey.layout import Group, Layout, split_and_word

RGB = tuple[int, int, int]
_VOID = 255
_NEW_LISTS = {"train": "train.txt", "val": "val.txt"}


@dataclass(frozen=True)
class Row:
    """A row of the proposed table."""

    name: str
    id: int
    colour: RGB
    ignore: bool
    share: float
    """Share of all pixels, 0 to 1."""


@dataclass(frozen=True)
class Proposal:
    """A reading of the masks, with a class table.

    Args:
        masks: Value of ``data.masks``.
        reason: Why, in words.
        rows: Proposed classes.
    """

    masks: str
    reason: str
    rows: tuple[Row, ...]

    def table(self) -> str:
        """Return the class table as YAML."""
        lines = ["# A start: give the classes their names; ignore: true leaves the pixels of a row out.", "classes:"]
        for row in self.rows:
            ignore = ", ignore: true" * row.ignore
            lines.append(f"  - {{name: {row.name}, id: {row.id}, colour: {list(row.colour)}{ignore}}}")
        return "\n".join(lines) + "\n"


def propose(found: Contents) -> Proposal | None:
    """Return how the masks may be read; None without a readable mask."""
    if found.painted:
        return _of_colours(found)
    if not (found.stored or found.shown):
        return None
    if not found.stored:
        return Proposal("ids", "their channels are equal and hold numbers", _rows(found.shown, found))
    if found.few_bits and len(found.whole) > 1 and not set(found.stored) <= found.whole:
        reason = f"{found.few_bits} of the masks have fewer than 8 bits, and show the greys of the others"
        return Proposal("shown", reason, _rows(found.shown, found))
    reason = "they hold one number per pixel"
    if any(len(colours) > 1 for colours in found.colour_of.values()):
        reason = "they have palettes, which differ from mask to mask: look whether indices or colours are the classes"
    elif found.colour_of:
        reason = "they are palette pictures, whose indices may be the ids"
    return Proposal("ids", reason, _rows(found.stored, found))


def _of_colours(found: Contents) -> Proposal:
    total = sum(found.colours.values())
    rows = []
    for number, (code, count) in enumerate(found.colours.most_common()):
        colour = (code >> 16, code >> 8 & 255, code & 255)
        name = "colour_" + "_".join(map(str, colour))
        rows.append(Row(name, number, colour, ignore=False, share=count / total))
    return Proposal("colours", "they have three channels of colours", tuple(rows))


def _rows(ids: dict[int, int], found: Contents) -> tuple[Row, ...]:
    total = sum(ids.values())
    binary = len(ids) == 2 and 0 in ids
    rows = []
    for number in sorted(ids):
        name = f"class_{number}" if not binary else "object" if number else "background"
        void = number == _VOID and not binary and len(ids) > 1
        shown = found.colour_of.get(number, set())
        code = next(iter(shown)) if len(shown) == 1 else None
        plain = (number and 255,) * 3 if binary else voc_colour(number % 256)
        colour = (plain[0], plain[1], plain[2]) if code is None else (code >> 16, code >> 8 & 255, code & 255)
        rows.append(Row("void" if void else name, number, colour, void, ids[number] / total))
    return tuple(_distinct(rows))


def _distinct(rows: list[Row]) -> list[Row]:
    """Replace colours that stand in two rows, as a table cannot have them."""
    seen: set[RGB] = set()
    kept = []
    for row in rows:
        colour, step = row.colour, 0
        while colour in seen:
            step += 1
            code = (row.id * 7919 + step * 104729) % 2**24
            colour = code >> 16, code >> 8 & 255, code & 255
        seen.add(colour)
        kept.append(Row(row.name, row.id, colour, row.ignore, row.share))
    return kept


def settings(layout: Layout, proposal: Proposal | None, table: str) -> list[str]:
    """Return options of ``--config data/folder_pairs`` that read the folder, one a line and quoted, or a remark."""
    words = dict(split_and_word(group.images) for group in layout.groups)
    words.pop("", None)
    if "train" in words and "val" not in words and "test" in words:
        words["val"] = words.pop("test")
    divided = {"train", "val"} <= words.keys()
    templates = {(*_templates(group, divided), group.patterns) for group in layout.groups}
    places = {(first, second) for first, second, _ in templates}
    patterns = {pattern for _, _, pattern in templates}
    lines = [f"--data.root {quote(str(layout.root))}", f"--data.classes {quote(table)}"]
    if proposal is not None and proposal.masks != "ids":
        lines.append(f"--data.masks {proposal.masks}")
    if len(places) > 1:
        tops = {(_top(first, second)) for first, second in places}
        places = tops if len(tops) == 1 else places
    if len(places) > 1 or len(patterns) > 1:
        return [*lines, "# and data.image_folder and data.mask_folder: these folders have no layout in common"]
    (images, masks), (image_name, mask_name) = next(iter(places)), next(iter(patterns))
    if images != "{split}/images" or masks != "{split}/masks":
        lines += [f"--data.image_folder '{images}'", f"--data.mask_folder '{masks}'"]
    lines += [f"--data.image_name '{image_name}'"] * (image_name != NAME)
    lines += [f"--data.mask_name '{mask_name}'"] * (mask_name != NAME)
    if other := {split: word for split, word in words.items() if divided and split != word}:
        told = ", ".join(f"{split}: {word}" for split, word in sorted(other.items()))
        lines.append(f"--data.split_names '{{{told}}}'")
    if not divided:
        lists = ", ".join(f"{split}: {name}" for split, name in (layout.lists or _NEW_LISTS).items())
        remark = "" if layout.lists else "  # lists of names, to be written"
        lines.append(f"--data.split_files {quote(f'{{{lists}}}')}{remark}")
    return lines


def _templates(group: Group, divided: bool) -> tuple[str, str]:
    """Return both folders, with the split's name as a placeholder if there are several, also in ``trainannot``."""
    word = split_and_word(group.images)[1] if divided else ""
    first, second = (path.replace(word, "{split}", 1) if word else path for path in (group.images, group.masks))
    return first, second


def _top(images: str, masks: str) -> tuple[str, str]:
    """Return both folders up to the part in which they differ, for images in subfolders."""
    first, second = PurePosixPath(images).parts, PurePosixPath(masks).parts
    same = 0
    while same < min(len(first), len(second)) and first[-1 - same] == second[-1 - same] != "{split}":
        same += 1
    return "/".join(first[: len(first) - same]), "/".join(second[: len(second) - same])
