"""Data sets that consist of image and mask files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from robustseg.data.dataset import SegmentationDataset
from robustseg.data.errors import DataError
from robustseg.data.transforms import EvalTransform, Pixels, TrainTransform
from robustseg.types import IGNORE_INDEX

Check = Literal["none", "headers", "all"]
"""What is looked at when a data set is opened."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MASK_SUFFIXES = (".png",)
MASK_MODES = ("1", "L", "P", "I", "I;16")
"""Pillow's modes with one number per pixel."""
DEEP_MODES = ("I", "I;16", "F")
"""Pillow's modes that do not fit 8 bits and that it clips instead of scaling."""

# what Pillow raises on files that are cut short, empty or no pictures at all
PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class FilePair(NamedTuple):
    """An image with its mask."""

    id: str
    image: Path
    mask: Path


def _by_stem(folder: Path, suffixes: Sequence[str], layout: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected {layout}.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes:
            continue
        if path.stem in found:
            raise DataError(f"{found[path.stem]} and {path} are both called {path.stem}: keep one of them.")
        found[path.stem] = path
    if not found:
        raise DataError(f"{folder} holds no {' or '.join(suffixes)} file; expected {layout}.")
    return found


def _examples(stems: Iterable[str]) -> str:
    names = sorted(stems)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def pair_by_stem(images: str | Path, masks: str | Path, layout: str) -> list[FilePair]:
    """Pair the images (PNG or JPEG) of a folder with the PNG masks of another that have the same name.

    Args:
        images: Folder of the images; subfolders, hidden and other files are passed over.
        masks: Folder of the masks.
        layout: The expected folders in words, for the messages.

    Returns:
        The pairs, sorted by name.

    Raises:
        DataError: A folder is missing or empty, or an image or a mask stands alone.
    """
    image_of = _by_stem(Path(images), IMAGE_SUFFIXES, layout)
    mask_of = _by_stem(Path(masks), MASK_SUFFIXES, layout)
    if alone := image_of.keys() - mask_of.keys():
        raise DataError(f"no mask in {masks} for the image {_examples(alone)}: add it, or remove the image.")
    if alone := mask_of.keys() - image_of.keys():
        raise DataError(f"no image in {images} for the mask {_examples(alone)}: add it, or remove the mask.")
    return [FilePair(stem, path, mask_of[stem]) for stem, path in image_of.items()]


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except PILLOW_ERRORS as error:
        raise DataError(f"{path} cannot be opened as a picture ({_reason(error)}): replace or remove it.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    return " ".join(str(error).split()) or type(error).__name__


def _check_mode(picture: Image.Image, path: Path, is_mask: bool) -> None:
    if is_mask and picture.mode not in MASK_MODES:
        raise DataError(
            f"mask {path} has the colour mode {picture.mode}; expected one class id per pixel: convert it to a "
            f"single-channel PNG."
        )
    if not is_mask and picture.mode in DEEP_MODES:
        raise DataError(f"image {path} has more than 8 bits per channel (mode {picture.mode}): convert it to 8 bits.")


def check_headers(pairs: Iterable[FilePair]) -> None:
    """Check, without decoding, that all files are pictures and that each mask is as large as its image.

    Raises:
        DataError: It names the first file that is not.
    """
    for pair in pairs:
        with _open(pair.image) as image, _open(pair.mask) as mask:
            _check_mode(image, pair.image, is_mask=False)
            _check_mode(mask, pair.mask, is_mask=True)
            _check_same_size(pair, image.size, mask.size)


def _check_same_size(pair: FilePair, image: tuple[int, int], mask: tuple[int, int]) -> None:
    if image != mask:
        raise DataError(
            f"mask {pair.mask} is {mask[0]}x{mask[1]} pixels but image {pair.image} is {image[0]}x{image[1]} "
            f"(width x height): export one of them again."
        )


def _decode(path: Path, is_mask: bool) -> NDArray[np.generic]:
    with _open(path) as picture:
        _check_mode(picture, path, is_mask)
        try:
            return np.array(picture if is_mask else picture.convert("RGB"))
        except PILLOW_ERRORS as error:
            raise DataError(f"{path} cannot be decoded ({_reason(error)}): replace or remove it.") from error


class PairedFiles(SegmentationDataset):
    """Image and mask files, decoded whenever they are fetched unless they are cached.

    Args:
        pairs: The files.
        class_names: Their number says which ids a mask may hold.
        void_ids: Ids in the masks that mean "no class" beside the ignore index itself.
        resize: Applied to every sample, before the cache.
        augment: Applied afresh each time a sample is fetched.
        cache: Keep decoded and resized samples in memory, per process.
        check: What to look at now rather than when a sample is fetched: ``"none"``, ``"headers"`` (see
            ``check_headers``) or ``"all"``, which also decodes every file once and checks the ids of the masks.

    Raises:
        DataError: ``check`` found a file that cannot be used.
    """

    def __init__(
        self,
        pairs: Sequence[FilePair],
        class_names: Sequence[str],
        void_ids: Sequence[int] = (),
        resize: EvalTransform | None = None,
        augment: TrainTransform | None = None,
        cache: bool = False,
        check: Check = "all",
    ) -> None:
        super().__init__(resize, augment, cache)
        if check not in ("none", "headers", "all"):
            raise ValueError(f"check = {check!r}: set data.check to none, headers or all.")
        self.pairs = list(pairs)
        self.class_names = list(class_names)
        self.void_ids = tuple(void_ids)
        if check != "none":
            check_headers(pairs)
        if check == "all":
            with ThreadPoolExecutor(max_workers=4) as pool:  # Pillow decodes outside of the interpreter lock
                for _ in pool.map(self._try, range(len(self.pairs))):
                    pass

    def __len__(self) -> int:
        return len(self.pairs)

    def sample_id(self, index: int) -> str:
        """Name of the files without folder and suffix."""
        return self.pairs[index].id

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Decode a pair and turn void ids into the ignore index.

        Raises:
            DataError: A file is truncated, the sizes differ, or an id is outside the classes.
        """
        pair = self.pairs[index]
        image, mask = _decode(pair.image, is_mask=False), _decode(pair.mask, is_mask=True)
        _check_same_size(pair, (image.shape[1], image.shape[0]), (mask.shape[1], mask.shape[0]))
        return image.astype(np.uint8, copy=False), self._check_ids(mask, pair.mask)

    def _try(self, index: int) -> None:
        """Read a sample and forget it: a data set need not fit into memory."""
        self.read(index)

    def _check_ids(self, mask: NDArray[np.generic], path: Path) -> Pixels:
        known = {*range(len(self.class_names)), *self.void_ids, IGNORE_INDEX}
        present = np.unique(mask) if mask.dtype.itemsize > 1 else np.flatnonzero(np.bincount(mask.ravel()))
        if unknown := [int(label) for label in present if int(label) not in known]:
            void = ", ".join(str(label) for label in sorted({*self.void_ids, IGNORE_INDEX}))
            raise DataError(
                f"mask {path} holds the ids {_ids(unknown)}, which are outside the {len(self.class_names)} classes "
                f"0-{len(self.class_names) - 1} ({self.class_names[0]} to {self.class_names[-1]}; void: {void}): "
                f"convert it to these ids, or choose the data set that it belongs to."
            )
        result = mask.astype(np.uint8)
        for void_id in self.void_ids:
            result[mask == void_id] = IGNORE_INDEX
        return result


def _ids(labels: list[int]) -> str:
    return ", ".join(map(str, labels[:8])) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
