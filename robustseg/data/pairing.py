"""Image and mask files by name, paired without a file being passed over in silence."""

from __future__ import annotations

import difflib
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from robustseg.data.errors import DataError
from robustseg.data.folders import examples, existing_folder, files_below, is_file, is_folder, listed, read_list

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm", ".pbm")
"""Suffixes of lossless formats; a file's content is what decides in the end."""
_INEXACT_SUFFIXES = (".jpg", ".jpeg", ".webp", ".avif", ".jp2")
"""Suffixes of formats with usually lossy compression."""
PICTURE_SUFFIXES = (*IMAGE_SUFFIXES, *MASK_SUFFIXES, *_INEXACT_SUFFIXES, ".npy", ".npz", ".mat", ".jxl", ".heic")
"""Suffixes of all files that may be pictures."""
NAME = "{name}"
"""Place of the name that image and mask share, in a pattern such as ``{name}_leftImg8bit``."""


class FilePair(NamedTuple):
    """An image with its mask."""

    id: str
    image: Path
    mask: Path


def check_pattern(option: str, pattern: str) -> str:
    """Return a pattern of file names.

    Raises:
        ValueError: It has not exactly one ``{name}``, other braces, or a slash.
    """
    rest = pattern.replace(NAME, "", 1)
    if NAME not in pattern or any(sign in rest for sign in "{}/\\"):
        raise ValueError(
            f"{option} = {pattern!r} is no pattern of file names without suffix: write {NAME} where the name that "
            f"image and mask share stands, such as {NAME}_mask or img_{NAME}."
        )
    return pattern


def files_by_name(
    folder: Path,
    suffixes: Sequence[str],
    layout: str,
    nested: bool = False,
    pattern: str = NAME,
    passed: list[Path] | None = None,
) -> dict[str, Path]:
    """Return the files of a folder by name without suffix, in order; names are compared in one Unicode form.

    Args:
        folder: The folder.
        suffixes: Suffixes in lower case.
        layout: The expected folders in words, for the messages.
        nested: Look into subfolders, links among them; names are then relative paths with slashes.
        pattern: Pattern of the names, see :data:`NAME`.
        passed: List that receives everything else in the folder: hidden files, subfolders that are not looked into,
            other names and suffixes.

    Raises:
        DataError: The folder is missing or holds no such file, two files have the same name, or there are pictures of
            another suffix that would be missing.
    """
    existing_folder(folder, layout)
    start, end = pattern.split(NAME)
    found: dict[str, Path] = {}
    others: list[Path] = []
    lost: list[Path] = []
    for path in files_below(folder) if nested else listed(folder):
        stem = unicodedata.normalize("NFC", path.stem)
        fits = stem.startswith(start) and stem.endswith(end) and len(stem) > len(start + end)
        if path.name.startswith(".") or path.suffix.lower() not in suffixes or not fits:
            others.append(path)
            if fits and path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith("."):
                lost.append(path)
            continue
        inner = stem[len(start) : len(stem) - len(end)]
        name = (Path(unicodedata.normalize("NFC", path.relative_to(folder).parent.as_posix())) / inner).as_posix()
        if name in found:
            raise DataError(f"{found[name]} and {path} are both called {name}: keep one of them.")
        found[name] = path
    stems = {path.with_suffix("") for path in found.values()}
    pictures = [path for path in lost if path.suffix.lower() not in suffixes and path.with_suffix("") not in stems]
    if pictures or not found:
        wanted = " or ".join(f"{pattern.replace(NAME, '')}{suffix}" for suffix in suffixes)
        told = _instead(pictures, suffixes)
        raise DataError(
            f"{folder} holds {told}, which are not read."
            if found
            else f"{folder} holds no {wanted} file{' but ' * bool(told)}{told}; expected {layout}."
        )
    if passed is not None:
        passed += others + (_hidden(folder) if nested else [])
    return found


def _hidden(folder: Path) -> list[Path]:
    """Return the hidden files below a folder."""
    return [path for path in files_below(folder, hidden=True) if path.name.startswith(".")]


def _instead(pictures: Sequence[Path], suffixes: Sequence[str]) -> str:
    """Return a remark on pictures of other suffixes in a folder, with the remedy; empty without any."""
    if not pictures:
        return ""
    suffix, count = Counter(path.suffix for path in pictures).most_common(1)[0]
    name = next(path.name for path in pictures if path.suffix == suffix)
    if ".jpg" in suffixes:
        remedy = "convert them to PNG or JPEG"
    elif suffix.lower() in _INEXACT_SUFFIXES:
        remedy = "export masks as PNG from their source, as this compression has changed ids and colours"
    else:
        remedy = "convert them to PNG"
    return f"{count} {suffix} files such as {name} ({remedy})"


def pair_up(
    image_of: dict[str, Path], mask_of: dict[str, Path], images: str | Path, masks: str | Path
) -> list[FilePair]:
    """Pair files of the same name.

    Args:
        image_of: Images by name.
        mask_of: Masks by name.
        images: Folder of the images, for the messages.
        masks: Folder of the masks, for the messages.

    Raises:
        DataError: An image has no mask, or a mask has no image.
    """
    for there, here, kinds, folder in (
        (mask_of, image_of, ("mask", "image"), masks),
        (image_of, mask_of, ("image", "mask"), images),
    ):
        if alone := here.keys() - there.keys():
            raise DataError(
                f"no {kinds[0]} in {folder} for the {kinds[1]} {examples(alone)}: add it, or remove the {kinds[1]}"
                f"{_near(alone, image_of, mask_of)}."
            )
    return [FilePair(name, path, mask_of[name]) for name, path in image_of.items()]


def _near(alone: Iterable[str], image_of: dict[str, Path], mask_of: dict[str, Path]) -> str:
    """Return a remark if names differ in upper and lower case only, or by what stands around them."""
    others = {name.casefold(): name for name in image_of.keys() ^ mask_of.keys() if name not in set(alone)}
    for name in sorted(alone):
        if name.casefold() in others:
            return f" ({others[name.casefold()]} differs from {name} in upper and lower case: rename one of them)"
    patterns = common_patterns(list(image_of), list(mask_of))
    if patterns is None or patterns == (NAME, NAME):
        return ""
    options = [f"{key} to {value!r}" for key, value in zip(("image_name", "mask_name"), patterns, strict=True)]
    return f" (all names pair up with data.{' and data.'.join(options)})"


def common_patterns(images: Sequence[str], masks: Sequence[str]) -> tuple[str, str] | None:
    """Return the patterns by which all names of images pair up with all names of masks; None if none are found.

    Args:
        images: Names of images, relative paths without suffix.
        masks: Names of masks.
    """
    if len(images) != len(masks) or not images:
        return None
    first, second = (Path(min(names)).name for names in (images, masks))
    match = difflib.SequenceMatcher(None, first, second, autojunk=False).find_longest_match()
    core = first[match.a : match.a + match.size]
    around = [(text[:begin], text[begin + match.size :]) for text, begin in ((first, match.a), (second, match.b))]
    # the end of one word may be shared by chance, as in img_1 and seg_1
    word = re.match(r"[^\W\d_]*[_\-. ]*", core) if all(before for before, _ in around) else None
    tail = re.search(r"[_\-. ]*[^\W\d_]*$", core) if all(after for _, after in around) else None
    cuts = [(word.end() if word else 0, tail.start() if tail else len(core)), (0, len(core))]
    for start, end in cuts:
        patterns = [f"{before}{core[:start]}{NAME}{core[end:]}{after}" for before, after in around]
        if start < end and _pair_up_by(patterns, images, masks):
            return patterns[0], patterns[1]
    return None


def _pair_up_by(patterns: Sequence[str], images: Sequence[str], masks: Sequence[str]) -> bool:
    found = [
        {inner_name(name, pattern) for name in names} for names, pattern in zip((images, masks), patterns, strict=True)
    ]
    return found[0] == found[1] and "" not in found[0] and len(found[0]) == len(images)


def inner_name(name: str, pattern: str) -> str:
    """Return the part of a name that a pattern leaves over, with its folder; empty if it does not fit."""
    start, end = pattern.split(NAME)
    path = Path(name)
    if not (path.name.startswith(start) and path.name.endswith(end) and len(path.name) > len(start + end)):
        return ""
    return (path.parent / path.name[len(start) : len(path.name) - len(end)]).as_posix()


def pair_by_stem(
    images: str | Path,
    masks: str | Path,
    layout: str,
    nested: bool = False,
    image_name: str = NAME,
    mask_name: str = NAME,
) -> list[FilePair]:
    """Pair the images of a folder with the masks of another that have the same name; warn of all other files.

    Args:
        images: Folder of the images.
        masks: Folder of the masks, in lossless formats.
        layout: The expected folders in words, for the messages.
        nested: Include subfolders, which are then part of the name; otherwise they are skipped.
        image_name: Pattern of the images' names without suffix, such as ``{name}_leftImg8bit``.
        mask_name: Pattern of the masks' names.

    Returns:
        The pairs, sorted by name.

    Raises:
        DataError: A folder is missing or empty, an image has no mask, a mask has no image, or pictures have a suffix
            that is not read.
        ValueError: A pattern is none.
    """
    image_of, mask_of = all_files(images, masks, layout, nested, image_name, mask_name)
    return pair_up(image_of, mask_of, images, masks)


def all_files(
    images: str | Path, masks: str | Path, layout: str, nested: bool, image_name: str, mask_name: str
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return images and masks by name, which may not pair up; arguments and errors are those of ``pair_by_stem``."""
    passed: list[Path] = []
    image_name, mask_name = check_pattern("image_name", image_name), check_pattern("mask_name", mask_name)
    image_of = files_by_name(Path(images), IMAGE_SUFFIXES, layout, nested, image_name, passed)
    mask_of = files_by_name(Path(masks), MASK_SUFFIXES, layout, nested, mask_name, passed)
    used = {*image_of.values(), *mask_of.values()}
    warn_of_others(images, [path for path in dict.fromkeys(passed) if path not in used])
    alike = [name for name, count in Counter(name.casefold() for name in image_of).items() if count > 1]
    if alike:
        same = [name for name in image_of if name.casefold() == alike[0]]
        warnings.warn(
            f"{images}: the names {' and '.join(same)} differ in upper and lower case only ({len(alike)} such names): "
            "on macOS or Windows one of them replaces the other.",
            stacklevel=2,
        )
    return image_of, mask_of


def warn_of_others(folder: str | Path, others: Sequence[Path]) -> None:
    """Warn, in one line, of files and folders that are no part of a data set."""
    if not others:
        return
    names = [f"{path.name}/" if is_folder(path) and not is_file(path) else path.name for path in others]
    warnings.warn(f"{folder}: passed over {len(others)} that are no image or mask: {examples(names)}.", stacklevel=3)


def listed_pairs(
    path: Path, others: Sequence[Path], image_of: dict[str, Path], mask_of: dict[str, Path]
) -> list[FilePair]:
    """Return the pairs that a text file names, in the order of their names.

    Args:
        path: The list, one name per line, with or without the suffix of the image.
        others: Lists of other splits.
        image_of: Images by name.
        mask_of: Masks by name.

    Raises:
        DataError: The list cannot be read, names a sample twice or one without image or mask, or shares one with
            another list.
    """
    images = listed_files(path, {"image": image_of, "mask": mask_of})
    for other in others:
        if both := images.keys() & set(_listed_names(other)):
            raise DataError(
                f"{path} and {other} both name {examples(both)}: a sample belongs to training or to validation and "
                f"test; take it out of one of them."
            )
    return [FilePair(name, image, mask_of[name]) for name, image in images.items()]


def listed_files(path: Path, files: Mapping[str, dict[str, Path]]) -> dict[str, Path]:
    """Return the files of the first kind that a text file names, in the order of their names.

    Args:
        path: The list.
        files: Files by name, of each kind that a listed sample must have.

    Raises:
        DataError: The list cannot be read, names a sample twice, or one without a file.
    """
    names = _listed_names(path)
    for kind, there in files.items():
        if absent := [name for name in names if name not in there]:
            raise DataError(
                f"{path} names {len(names)} samples, of {len(absent)} of which there is no {kind}: {examples(absent)}; "
                f"names are relative to the {kind} folder, as {min(there)}."
            )
    first = next(iter(files.values()))
    return {name: first[name] for name in sorted(names)}


def _listed_names(path: Path) -> list[str]:
    """Return the names of a list, without suffixes of pictures.

    Raises:
        DataError: The list cannot be read, or names a sample twice.
    """
    names: dict[str, str] = {}
    for line in read_list(path, nested=True):
        sample = Path(unicodedata.normalize("NFC", line))
        name = (sample.with_suffix("") if sample.suffix.lower() in PICTURE_SUFFIXES else sample).as_posix()
        if name in names:
            raise DataError(f"{path} names {name} twice, as {names[name]} and as {line}: remove one of them.")
        names[name] = line
    return list(names)
