"""Data sets that consist of image and mask files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal

import numpy as np

from robustseg.data.dataset import SegmentationDataset
from robustseg.data.disk_cache import file_fingerprint
from robustseg.data.errors import DataError
from robustseg.data.mask_palettes import Palettes
from robustseg.data.masks import MaskFormat
from robustseg.data.pairing import FilePair
from robustseg.data.pictures import (
    EXACT,
    UPRIGHT,
    ImageForm,
    check_forms,
    check_image,
    decode_image,
    open_picture,
    orientation,
)
from robustseg.data.transforms import EvalTransform, Pixels, TrainTransform
from robustseg.opening.pictures import MAX_PIXELS

Check = Literal["none", "headers", "all"]
"""Extent of the check when a data set is opened."""


def check_check(check: Check) -> Check:
    """Return ``check``.

    Raises:
        ValueError: It is not one of :data:`Check`.
    """
    if check not in ("none", "headers", "all"):
        raise ValueError(f"check = {check!r}: set data.check to none, headers or all.")
    return check


def check_headers(
    pairs: Iterable[FilePair],
    masks: MaskFormat,
    upright: bool = False,
    convert: Collection[ImageForm] = EXACT,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Check, without decoding, that all files are pictures and that each mask is as large as its image.

    The size of a .mat file is not known before it is decoded.

    Args:
        pairs: The files.
        masks: Format of the masks.
        upright: Check as well that no EXIF orientation turns an image.
        convert: Forms of images that may be converted to RGB.
        max_pixels: Most pixels of a file.

    Raises:
        DataError: A file fails the check; the message names the first one.
    """
    palettes = Palettes()
    for pair in pairs:
        with open_picture(pair.image, max_pixels, dense=True) as image:
            check_image(image, pair.image, upright, convert)
            size = masks.check_header(pair.mask, palettes, max_pixels)
            if size is not None:
                _check_same_size(pair, image.size, size)


def _check_same_size(pair: FilePair, image: tuple[int, int], mask: tuple[int, int]) -> None:
    if image == mask:
        return
    with open_picture(pair.image, max_pixels=image[0] * image[1]) as picture:
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
        convert: Forms of images that are converted to RGB of 8 bits; other forms are refused.
        max_pixels: Most pixels of an image or a mask.

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
        convert: Collection[ImageForm] = EXACT,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(resize, augment, cache)
        check_check(check)
        self.pairs = list(pairs)
        self.masks = masks
        self.upright = upright
        self.convert = check_forms(convert)
        self.max_pixels = max_pixels
        if check != "none":
            check_headers(self.pairs, masks, upright, self.convert, max_pixels)
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
        image = decode_image(pair.image, self.upright, self.convert, self.max_pixels)
        check_size = partial(_check_same_size, pair, (image.shape[1], image.shape[0]))
        mask = self.masks.read(pair.mask, check_size, self.max_pixels)
        check_size((mask.shape[1], mask.shape[0]))
        return image.astype(np.uint8, copy=False), mask

    def fingerprint(self, index: int) -> str:
        """Return a fingerprint of the two files, of the meaning of their ids and of the conversion of images."""
        pair = self.pairs[index]
        how = type(self).__qualname__, self.masks.meaning, self.convert
        return repr((file_fingerprint(pair.image, pair.mask), *how))

    def _try(self, index: int) -> None:
        """Read a sample without keeping it, since a data set need not fit into memory."""
        self.read(index)
