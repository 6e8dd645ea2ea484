"""Base of the data sets of image and mask files."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from robustseg.data.base import SegmentationData, Split
from robustseg.data.dataset import SegmentationDataset
from robustseg.data.errors import DataError
from robustseg.data.files import Check, PairedFiles, check_check
from robustseg.data.masks import RGB, MaskFormat, MaskKind, check_mask_kind
from robustseg.data.pairing import FilePair
from robustseg.data.pictures import EXACT, ImageForm, check_forms
from robustseg.opening.pictures import MAX_PIXELS
from robustseg.types import IGNORE_INDEX


class FileData(SegmentationData):
    """Data set of files below a folder; a subclass pairs them and defines the format of the masks.

    Images are read as stored, which published masks match: the EXIF orientation, by which viewers turn a picture, is
    ignored.

    Args:
        root: Folder with the files of ``layout``, or a zip or plain tar of them, which is read in place.
        image_size: (height, width) in pixels that every image is resized to; ``None`` keeps the files' size.
        check: Check before training: ``"all"`` decodes every file once, ``"headers"`` finds missing, unreadable and
            ill-sized files only, ``"none"`` checks nothing in advance.
        masks: ``"ids"`` of one number per pixel, as published, or RGB ``"colours"`` of the classes. A mask whose
            numbers and whose greys, as viewers show them, are both ids of other classes is an error:
            ``"stored"`` takes the numbers, or palette indices, and ``"shown"`` the greys.
        convert: Forms of images that are converted to RGB of 8 bits: ``grey``, ``alpha``, ``16bit``, ``cmyk`` and
            ``bands``; images of other forms are refused. By default ``[grey, alpha]``, which change no colour.
        max_pixels: Most pixels of a file, as its header may be wrong; an image takes about 10 bytes of memory for each.
        **common: See ``SegmentationData``.

    Raises:
        ValueError: An argument is outside its range; the message names it.
    """

    layout: ClassVar[tuple[str, ...]] = ()
    """Files below ``root``, one kind per line."""
    void_ids: ClassVar[tuple[int, ...]] = (IGNORE_INDEX,)
    """Ids in the files of pixels that belong to no class."""
    void_colours: ClassVar[tuple[RGB, ...]] = ()
    """Colours of pixels that belong to no class."""
    upright: ClassVar[bool] = False
    """True to refuse images with an EXIF orientation, since their masks may match either orientation."""

    def __init__(
        self,
        root: str,
        image_size: tuple[int, int] | None = None,
        check: Check = "headers",
        masks: MaskKind = "ids",
        convert: list[ImageForm] | None = None,
        max_pixels: int = MAX_PIXELS,
        **common: Any,
    ) -> None:
        super().__init__(image_size=image_size, **common)
        self.root = Path(root).expanduser()
        self.check = check_check(check)
        self.mask_kind = check_mask_kind(masks)
        self.convert = EXACT if convert is None else check_forms(convert)
        if max_pixels < 1:
            raise ValueError(f"max_pixels = {max_pixels}: set data.max_pixels to 1 or more.")
        self.max_pixels = max_pixels
        self.mask_format()  # reports an impossible format at construction

    @classmethod
    def expected(cls) -> str:
        """Return the layout in one line."""
        return "; ".join(cls.layout)

    @property
    def layout_here(self) -> str:
        """Return the layout in words, for messages."""
        return f"{self.expected()} in {self.root} (set data.root; robustseg datasets {type(self).__name__} says more)"

    @property
    def table(self) -> tuple[tuple[str, RGB], ...]:
        """Name and RGB colour of each class, in the order of the ids."""
        return self.classes

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of their ids."""
        return [name for name, _ in self.table]

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """RGB colour (0 to 255) of each class, for pictures."""
        return [colour for _, colour in self.table]

    @property
    def num_classes(self) -> int:
        """Number of classes, void not counted."""
        return len(self.table)

    def mask_format(self) -> MaskFormat:
        """Return the format of the masks."""
        return MaskFormat.of_classes(self.table, self.void_ids, self.void_colours, kind=self.mask_kind)

    @abstractmethod
    def pairs(self, split: Split) -> list[FilePair]:
        """Return the files of a split, in order.

        Raises:
            DataError: Folders or files are missing.
        """

    def count(self, split: Split) -> int | None:
        """Return the number of samples of a split, without opening it; None if it is not there."""
        if split in self.datasets or not self.labelled:
            return super().count(split)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return len(self.pairs(split))
        except DataError:
            return None

    def make_dataset(self, split: Split) -> SegmentationDataset:
        """Open a split.

        Raises:
            DataError: Folders or files are missing, or ``check`` found one that cannot be used.
        """
        return self.open_pairs(self.pairs(split), split, self.mask_format())

    def open_pairs(self, pairs: list[FilePair], split: Split, masks: MaskFormat) -> PairedFiles:
        """Open the pairs of a split with masks of a format.

        Raises:
            DataError: ``check`` found a file that cannot be used.
        """
        return PairedFiles(
            pairs,
            masks,
            resize=self.resize(),
            augment=self.augmentation if split == "train" else None,
            cache=self.cache,
            check=self.check,
            upright=self.upright,
            convert=self.convert,
            max_pixels=self.max_pixels,
        )


def refuse_colours(data: FileData) -> None:
    """Refuse ``masks: colours`` for a data set whose masks are published as numbers only.

    Raises:
        ValueError: It is set.
    """
    if data.mask_kind == "colours":
        name = type(data).__name__
        raise ValueError(f"masks = 'colours': the masks of {name} are published as numbers; set data.masks to ids.")
