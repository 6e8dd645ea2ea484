"""Data sets that consist of image and mask files."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from robustseg.data.dataset import SegmentationDataset
from robustseg.data.disk_cache import file_fingerprint
from robustseg.data.errors import DataError
from robustseg.data.folders import examples, existing_folder, files_below, listed
from robustseg.data.mask_palettes import Palettes
from robustseg.data.masks import MaskFormat
from robustseg.data.pictures import UPRIGHT, check_image, decode_image, open_picture, orientation
from robustseg.data.transforms import EvalTransform, Pixels, TrainTransform

Check = Literal["none", "headers", "all"]
"""Extent of the check when a data set is opened."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MASK_SUFFIXES = (".png",)
_INEXACT_SUFFIXES = (".jpg", ".jpeg", ".webp", ".avif", ".jp2")
"""Suffixes of formats with usually lossy compression."""
_PICTURE_SUFFIXES = (
    *IMAGE_SUFFIXES,
    *_INEXACT_SUFFIXES,
    ".tif",
    ".tiff",
    ".bmp",
    ".gif",
    ".ppm",
    ".pgm",
    ".npy",
    ".mat",
)


class FilePair(NamedTuple):
    """An image with its mask."""

    id: str
    image: Path
    mask: Path


def check_check(check: Check) -> Check:
    """Return ``check``.

    Raises:
        ValueError: It is not one of :data:`Check`.
    """
    if check not in ("none", "headers", "all"):
        raise ValueError(f"check = {check!r}: set data.check to none, headers or all.")
    return check


def files_by_name(
    folder: Path, suffixes: Sequence[str], layout: str, nested: bool = False, end: str = ""
) -> dict[str, Path]:
    """Return the files of a folder by name without suffix, in order; names are compared in one Unicode form.

    Args:
        folder: The folder; hidden files and other suffixes are skipped.
        suffixes: Suffixes in lower case.
        layout: The expected folders in words, for the messages.
        nested: Look into subfolders, links among them; names are then relative paths with slashes.
        end: Ending that is removed from the names; files without it are skipped.

    Raises:
        DataError: The folder is missing or holds no such file, or two files have the same name.
    """
    existing_folder(folder, layout)
    found: dict[str, Path] = {}
    others: list[Path] = []
    for path in files_below(folder) if nested else listed(folder):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() not in suffixes or not path.stem.endswith(end):
            others.append(path)
            continue
        name = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix()).removesuffix(end)
        if name in found:
            raise DataError(f"{found[name]} and {path} are both called {name}: keep one of them.")
        found[name] = path
    if not found:
        wanted = " or ".join(f"{end}{suffix}" for suffix in suffixes)
        raise DataError(f"{folder} holds no {wanted} file{_instead(others, suffixes)}; expected {layout}.")
    return found


def _instead(others: Sequence[Path], suffixes: Sequence[str]) -> str:
    """Return a remark on pictures of other suffixes in a folder, with the remedy."""
    pictures = [
        path for path in others if path.suffix.lower() in _PICTURE_SUFFIXES and path.suffix.lower() not in suffixes
    ]
    if not pictures:
        return ""
    suffix, count = Counter(path.suffix for path in pictures).most_common(1)[0]
    name = next(path.name for path in pictures if path.suffix == suffix)
    if any(image in suffixes for image in IMAGE_SUFFIXES[1:]):
        remedy = "convert them to PNG or JPEG"
    elif suffix.lower() in _INEXACT_SUFFIXES:
        remedy = "export masks as PNG from their source, as this compression has changed ids and colours"
    else:
        remedy = "convert them to PNG"
    return f" but {count} {suffix} files such as {name} ({remedy})"


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
    if alone := image_of.keys() - mask_of.keys():
        raise DataError(f"no mask in {masks} for the image {examples(alone)}: add it, or remove the image.")
    if alone := mask_of.keys() - image_of.keys():
        raise DataError(f"no image in {images} for the mask {examples(alone)}: add it, or remove the mask.")
    return [FilePair(name, path, mask_of[name]) for name, path in image_of.items()]


def pair_by_stem(
    images: str | Path,
    masks: str | Path,
    layout: str,
    nested: bool = False,
    image_end: str = "",
    mask_end: str = "",
) -> list[FilePair]:
    """Pair the images (PNG or JPEG) of a folder with the PNG masks of another that have the same name.

    Args:
        images: Folder of the images; hidden and other files are skipped.
        masks: Folder of the masks.
        layout: The expected folders in words, for the messages.
        nested: Include subfolders, which are then part of the name; otherwise they are skipped.
        image_end: Ending of the images' names after the name that they share with the mask.
        mask_end: Ending of the masks' names after that name.

    Returns:
        The pairs, sorted by name.

    Raises:
        DataError: A folder is missing or empty, an image has no mask, or a mask has no image.
    """
    image_of = files_by_name(Path(images), IMAGE_SUFFIXES, layout, nested, image_end)
    return pair_up(image_of, files_by_name(Path(masks), MASK_SUFFIXES, layout, nested, mask_end), images, masks)


def check_headers(pairs: Iterable[FilePair], masks: MaskFormat, upright: bool = False) -> None:
    """Check, without decoding, that all files are pictures and that each mask is as large as its image.

    The size of a .mat file is not known before it is decoded.

    Args:
        pairs: The files.
        masks: Format of the masks.
        upright: Check as well that no EXIF orientation turns an image.

    Raises:
        DataError: A file fails the check; the message names the first one.
    """
    palettes = Palettes()
    for pair in pairs:
        with open_picture(pair.image) as image:
            check_image(image, pair.image, upright)
            size = masks.check_header(pair.mask, palettes)
            if size is not None:
                _check_same_size(pair, image.size, size)


def _check_same_size(pair: FilePair, image: tuple[int, int], mask: tuple[int, int]) -> None:
    if image == mask:
        return
    with open_picture(pair.image) as picture:
        turned = orientation(picture)
    remedy = "export one of them again"
    if turned > 4 and image == mask[::-1]:  # these exchange height and width
        remedy = f"the image has the EXIF orientation {turned}, by which viewers turn it; {UPRIGHT}"
    raise DataError(
        f"mask {pair.mask} is {mask[0]}x{mask[1]} pixels but image {pair.image} is {image[0]}x{image[1]} "
        f"(width x height): {remedy}."
    )


class PairedFiles(SegmentationDataset):
    """Image and mask files, decoded at each fetch unless they are cached.

    Images are read as stored: the EXIF orientation, by which viewers turn a picture, is ignored.

    Args:
        pairs: The files.
        masks: Format of the masks.
        resize: Applied to every sample, before the cache.
        augment: Applied anew to each fetched sample.
        cache: Keep decoded and resized samples in memory, per process.
        check: Check at construction instead of at the fetch of a sample: ``"none"``, ``"headers"`` (see
            ``check_headers``) or ``"all"``, which also decodes every file once and checks the ids of the masks.
        upright: Refuse images that their EXIF orientation turns.

    Raises:
        DataError: ``check`` found a file that cannot be used.
    """

    def __init__(
        self,
        pairs: Sequence[FilePair],
        masks: MaskFormat,
        resize: EvalTransform | None = None,
        augment: TrainTransform | None = None,
        cache: bool = False,
        check: Check = "all",
        upright: bool = False,
    ) -> None:
        super().__init__(resize, augment, cache)
        check_check(check)
        self.pairs = list(pairs)
        self.masks = masks
        self.upright = upright
        if check != "none":
            check_headers(self.pairs, masks, upright)
        if check == "all":
            with ThreadPoolExecutor(max_workers=4) as pool:  # Pillow decodes outside of the interpreter lock
                for _ in pool.map(self._try, range(len(self.pairs))):
                    pass

    def __len__(self) -> int:
        return len(self.pairs)

    def sample_id(self, index: int) -> str:
        """Return the name of the files without folder and suffix."""
        return self.pairs[index].id

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Decode a pair and turn void ids into the ignore index.

        Raises:
            DataError: A file is truncated, the sizes differ, or an id is outside the classes.
        """
        pair = self.pairs[index]
        image, mask = decode_image(pair.image, self.upright), self.masks.read(pair.mask)
        _check_same_size(pair, (image.shape[1], image.shape[0]), (mask.shape[1], mask.shape[0]))
        return image.astype(np.uint8, copy=False), mask

    def fingerprint(self, index: int) -> str:
        """Return a fingerprint of the two files and of the meaning of their ids."""
        pair = self.pairs[index]
        return repr((file_fingerprint(pair.image, pair.mask), type(self).__qualname__, self.masks.meaning))

    def _try(self, index: int) -> None:
        """Read a sample without keeping it, since a data set need not fit into memory."""
        self.read(index)
