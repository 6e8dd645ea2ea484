"""Search for the images and masks of a folder: which folders and names belong together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from robustseg.data.errors import DataError
from robustseg.data.folders import existing_folder, files_below
from robustseg.data.pairing import NAME, PICTURE_SUFFIXES, FilePair, common_patterns, inner_name

_MASK_WORD = re.compile(r"mask|label|annot|seg|target|ground.?truth|(^|[_\-])(gt|lbl)", re.IGNORECASE)
"""Part of the name of a folder, or file, of masks."""
_NO_MASK = re.compile(r"colou?r|instance|polygon|vis|edge|panoptic|object", re.IGNORECASE)
_SPLITS = {
    "train": re.compile(r"train(ing)?(\d{4})?", re.IGNORECASE),
    "val": re.compile(r"(val(id|idation)?|dev)(\d{4})?", re.IGNORECASE),
    "test": re.compile(r"test(ing)?(\d{4})?", re.IGNORECASE),
}


@dataclass(frozen=True)
class Group:
    """A folder of images, its folder of masks, and the names by which they pair up.

    Args:
        images: Folder of the images below the root, as a path with slashes.
        masks: Folder of the masks.
        patterns: Patterns of the names of images and masks.
        pairs: The pairs.
        alone: Names of the files without a partner, below the root.
    """

    images: str
    masks: str
    patterns: tuple[str, str]
    pairs: tuple[FilePair, ...]
    alone: tuple[str, ...]

    @property
    def split(self) -> str:
        """``train``, ``val``, ``test``, or "" if no part of the path is one."""
        return next((split for part in PurePosixPath(self.images).parts if (split := split_of(part))), "")


@dataclass
class Layout:
    """All groups of a folder."""

    root: Path
    groups: list[Group]
    others: list[Path] = field(default_factory=list)
    """Pictures outside of the groups."""

    @property
    def pairs(self) -> list[FilePair]:
        """All pairs, in order."""
        return [pair for group in self.groups for pair in group.pairs]


def split_of(part: str) -> str:
    """Return the split that a folder's name stands for, or ""."""
    return next((split for split, words in _SPLITS.items() if words.fullmatch(part)), "")


def find_layout(root: Path) -> Layout:
    """Pair the images and masks below a folder.

    Raises:
        DataError: It is missing, or holds no images and masks that pair up.
    """
    existing_folder(root, "a folder of images and masks")
    files: dict[str, list[Path]] = {}
    for path in files_below(root):
        if path.suffix.lower() in PICTURE_SUFFIXES:
            files.setdefault(path.parent.relative_to(root).as_posix(), []).append(path)
    found = [group for folder in files if (group := _best(root, folder, files)) is not None]
    used = {path for group in found for pair in group.pairs for path in pair[1:]}
    used |= {root / name for group in found for name in group.alone}
    others = [path for paths in files.values() for path in paths if path not in used]
    if not found:
        folders = ", ".join(f"{folder} ({len(paths)})" for folder, paths in list(files.items())[:6])
        raise DataError(
            f"{root} holds no images and masks whose names pair up (pictures: {folders or 'none'}): put them into "
            f"{root / 'train' / 'images'} and {root / 'train' / 'masks'}, with the same names."
        )
    return Layout(root, found, others)


def _best(root: Path, images: str, files: Mapping[str, list[Path]]) -> Group | None:
    """Return the group of a folder of images with the folder of masks that has most of its names."""
    tried = [_within(root, images, files[images])] if not _is_mask_folder(images) else []
    tried += [_between(root, images, masks, files) for masks in files if _belong(images, masks)]
    groups = [group for group in tried if group is not None and group.pairs]
    return max(groups, key=lambda group: (len(group.pairs), -len(group.alone)), default=None)


def _is_mask_folder(folder: str) -> bool:
    return any(_MASK_WORD.search(part) for part in PurePosixPath(folder).parts)


def _belong(images: str, masks: str) -> bool:
    """Return whether two folders differ in one part, which speaks of masks in the second one only."""
    first, second = PurePosixPath(images).parts, PurePosixPath(masks).parts
    if len(second) == len(first) + 1:
        added = [place for place in range(len(second)) if second[:place] + second[place + 1 :] == first]
        return any(_MASK_WORD.search(second[place]) for place in added)
    changed = [(a, b) for a, b in zip(first, second, strict=False) if a != b]
    if len(first) != len(second) or len(changed) != 1:
        return False
    image, mask = changed[0]
    if split_of(image) and image not in mask:  # the masks of another split
        return False
    return bool(_MASK_WORD.search(mask)) and not _MASK_WORD.search(image)


def _between(root: Path, images: str, masks: str, files: Mapping[str, list[Path]]) -> Group | None:
    image_of, mask_of = ({path.stem: path for path in files[folder]} for folder in (images, masks))
    return _group(root, images, masks, image_of, mask_of)


def _within(root: Path, folder: str, paths: list[Path]) -> Group | None:
    """Return the group of a folder that holds images and masks side by side."""
    jpegs = {path.stem: path for path in paths if path.suffix.lower() in (".jpg", ".jpeg")}
    named = {path.stem: path for path in paths if _MASK_WORD.search(path.stem)}
    others = {path.stem: path for path in paths if path.suffix.lower() not in (".jpg", ".jpeg")}
    if named and len(named) < len(paths):
        rest = {path.stem: path for path in paths if path.stem not in named}
        return _group(root, folder, folder, rest, named)
    return _group(root, folder, folder, jpegs, others) if jpegs and others else None


def _group(
    root: Path, images: str, masks: str, image_of: Mapping[str, Path], mask_of: Mapping[str, Path]
) -> Group | None:
    patterns = (NAME, NAME)
    if not image_of.keys() & mask_of.keys():
        found = common_patterns(list(image_of), list(mask_of)) or _by_ends(list(image_of), list(mask_of))
        if found is None:
            return None
        patterns = found
    first, second = (
        {name: path for stem, path in named.items() if (name := inner_name(stem, pattern))}
        for named, pattern in ((image_of, patterns[0]), (mask_of, patterns[1]))
    )
    common = sorted(first.keys() & second.keys())
    both = {*(first[name] for name in common), *(second[name] for name in common)}
    alone = [path for path in (*image_of.values(), *mask_of.values()) if path not in both]
    place = "" if images == "." else f"{images}/"
    pairs = tuple(FilePair(f"{place}{name}", first[name], second[name]) for name in common)
    return Group(images, masks, patterns, pairs, tuple(path.relative_to(root).as_posix() for path in alone))


def _by_ends(images: list[str], masks: list[str]) -> tuple[str, str] | None:
    """Return patterns for masks called like the images but for the ending, which are one of several kinds of files."""
    image = min(images)
    for cut in sorted({len(image), *(place for place, sign in enumerate(image) if sign in "_-.")}, reverse=True):
        if not cut or not all(name.endswith(image[cut:]) for name in images):
            continue
        ends = sorted({mask[cut:] for mask in masks if mask.startswith(image[:cut])}, key=_likely)
        for end in ends:
            if end and sum(mask.endswith(end) for mask in masks) > len(images) // 2:
                return f"{NAME}{image[cut:]}", f"{NAME}{end}"
    return None


def _likely(end: str) -> tuple[bool, bool, int, str]:
    """Return a key by which endings of masks sort before those of pictures for the eye, and of objects."""
    return bool(_NO_MASK.search(end)), not _MASK_WORD.search(end), len(end), end
