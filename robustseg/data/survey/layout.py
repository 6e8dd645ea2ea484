"""Search for the images and masks of a folder: which folders and names belong together."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from robustseg.data.errors import DataError
from robustseg.data.folders import existing_folder, files_below, read_list
from robustseg.data.pairing import IMAGE_SUFFIXES, MASK_SUFFIXES, NAME, FilePair, common_patterns, inner_name

_MASK_WORD = re.compile(
    r"mask|label|annot|seg|target|manual|trimap|ground.?truth|(^|[_\-])(gt|lbl)|(^|[_\-])maps?$", re.IGNORECASE
)
"""Part of the name of a folder, or file, of masks."""
_NO_MASK = re.compile(r"colou?r|instance|polygon|vis|edge|panoptic|object", re.IGNORECASE)
_SPLITS = {
    "train": r"train(?:ing)?(?:\d{4})?",
    "val": r"(?:val(?:id|idation)?|dev)(?:\d{4})?",
    "test": r"test(?:ing)?(?:\d{4})?",
}
_WORDS = {split: re.compile(rf"(?:^|[_\-. ])({words})(?=$|[_\-. ])", re.IGNORECASE) for split, words in _SPLITS.items()}
"""The word that names a split, as a whole or as one of a folder's name, such as ``train_images``."""


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
        return split_and_word(self.images)[0]


@dataclass
class Layout:
    """All groups of a folder."""

    root: Path
    groups: list[Group]
    others: list[Path] = field(default_factory=list)
    """Pictures outside of the groups."""
    lists: dict[str, str] = field(default_factory=dict)
    """Files below the root with the names of the samples of training and of validation, by split."""

    @property
    def pairs(self) -> list[FilePair]:
        """All pairs, in order."""
        return [pair for group in self.groups for pair in group.pairs]


def split_and_word(folder: str) -> tuple[str, str]:
    """Return the split that a path stands for, with the word in it that says so; two empty texts without one."""
    for part in PurePosixPath(folder).parts:
        for split, words in _WORDS.items():
            if found := words.search(part):
                return split, found[1]
    return "", ""


def find_layout(root: Path) -> Layout:
    """Pair the images and masks below a folder.

    Raises:
        DataError: It is missing, or holds no images and masks that pair up.
    """
    existing_folder(root, "a folder of images and masks")
    files: dict[str, list[Path]] = {}
    for path in files_below(root):
        if path.suffix.lower() in (*IMAGE_SUFFIXES, *MASK_SUFFIXES):
            files.setdefault(path.parent.relative_to(root).as_posix(), []).append(path)
    found = _once([group for folder in files if (group := _best(root, folder, files)) is not None])
    used = {path for group in found for pair in group.pairs for path in pair[1:]}
    used |= {root / name for group in found for name in group.alone}
    others = [path for paths in files.values() for path in paths if path not in used]
    if not found:
        folders = ", ".join(f"{folder} ({len(paths)})" for folder, paths in list(files.items())[:6])
        raise DataError(
            f"{root} holds no images and masks whose names pair up (pictures: {folders or 'none'}): put them into "
            f"{root / 'train' / 'images'} and {root / 'train' / 'masks'}, with the same names."
        )
    return Layout(
        root, found, others, _lists(root, {pair.id.rsplit("/", 1)[-1] for group in found for pair in group.pairs})
    )


def _lists(root: Path, names: set[str]) -> dict[str, str]:
    """Return the lists of training, validation and test whose names all are samples; none without the first two."""
    found: dict[str, str] = {}
    for path in files_below(root):
        if path.suffix == ".txt" and path.stem in _SPLITS:
            with contextlib.suppress(DataError):
                if names.issuperset(read_list(path, nested=True)):
                    found.setdefault(path.stem, path.relative_to(root).as_posix())
    return found if {"train", "val"} <= found.keys() else {}


def _once(groups: Sequence[Group]) -> list[Group]:
    """Return the groups without those whose masks belong to another that is rather one of images."""
    kept: dict[str, Group] = {}
    for group in groups:
        other = kept.get(group.masks)
        if other is None or _unlike(group.images) < _unlike(other.images):
            kept[group.masks] = group
    images = {group.images for group in kept.values()}
    return [group for group in kept.values() if group.masks == group.images or group.masks not in images]


def _unlike(folder: str) -> int:
    """Return the number of parts of a path that speak of masks, or of pictures for the eye."""
    return sum(bool(_MASK_WORD.search(part)) + bool(_NO_MASK.search(part)) for part in PurePosixPath(folder).parts)


def _best(root: Path, images: str, files: Mapping[str, list[Path]]) -> Group | None:
    """Return the group of a folder of images with the folder of masks that has most of its names."""
    tried = [_within(root, images, files[images])] if not _is_mask_folder(images) else []
    tried += [_between(root, images, masks, files) for masks in files if _belong(images, masks)]
    groups = [group for group in tried if group is not None and group.pairs]
    return max(groups, key=_likeness, default=None)


def _likeness(group: Group) -> tuple[int, bool, int]:
    return len(group.pairs), _NO_MASK.search(group.masks) is None, -len(group.alone)


def _is_mask_folder(folder: str) -> bool:
    return any(_MASK_WORD.search(part) for part in PurePosixPath(folder).parts)


def _belong(images: str, masks: str) -> bool:
    """Return whether two folders differ in parts that speak of masks in the second one only, and not of splits."""
    first, second = list(PurePosixPath(images).parts), list(PurePosixPath(masks).parts)
    for end in (0, -1):
        while first and second and first[end] == second[end]:
            del first[end], second[end]
    word, other = split_and_word(images)[1], split_and_word(masks)[1]
    if word and (not other or word != other) and word not in masks:  # the masks of another split
        return False
    if len(first) > 1 or len(second) > 2:
        return False
    return any(map(_MASK_WORD.search, second)) and not any(map(_MASK_WORD.search, first))


def _between(root: Path, images: str, masks: str, files: Mapping[str, list[Path]]) -> Group | None:
    image_of, mask_of = (_by_stem(files[folder]) for folder in (images, masks))
    return _group(root, images, masks, image_of, mask_of)


def _by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    """Return files by name without suffix, in one Unicode form."""
    return {unicodedata.normalize("NFC", path.stem): path for path in paths}


def _within(root: Path, folder: str, paths: list[Path]) -> Group | None:
    """Return the group of a folder that holds images and masks side by side."""
    jpegs = _by_stem([path for path in paths if path.suffix.lower() in (".jpg", ".jpeg")])
    named = _by_stem([path for path in paths if _MASK_WORD.search(path.stem)])
    others = _by_stem([path for path in paths if path.suffix.lower() not in (".jpg", ".jpeg")])
    if named and len(named) < len(paths):
        rest = {name: path for name, path in _by_stem(paths).items() if name not in named}
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
