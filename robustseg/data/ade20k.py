"""ADE20K's scene parsing benchmark."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from robustseg.data.base import Split
from robustseg.data.facts.ade20k import ADE
from robustseg.data.file_data import FileData
from robustseg.data.folders import first_folder
from robustseg.data.masks import RGB, MaskFormat
from robustseg.data.pairing import FilePair, pair_by_stem
from robustseg.types import IGNORE_INDEX

_FOLDERS: dict[str, str] = {"train": "training", "val": "validation"}


class ADE20K(FileData):
    """ADE20K with the 150 classes of the scene parsing challenge: 20210 training and 2000 validation images.

    Below ``root``, which may also be ``ADEChallengeData2016`` itself:

    - ``ADEChallengeData2016/images/{training,validation}/*.jpg``: the images, of many sizes
    - ``ADEChallengeData2016/annotations/{training,validation}/*.png``: masks of the same names, 0 for unlabelled,
      k for class k-1

    The ground truth of the test images is not published: models are scored on the validation split.

    Zhou et al.: Scene Parsing through ADE20K Dataset, CVPR 2017.

    Args:
        root: Folder that holds ``ADEChallengeData2016`` or its zip, which is read in place.
        image_size: (height, width) in pixels that every image is resized to; ``None`` keeps the files' size.
        count_void: Count unlabelled pixels as class 0 instead of ignoring them, which gives 151 classes. Only for
            comparison with protocols that do so, such as that of SEA (Croce, Singh and Hein 2024).
        **common: See ``FileData``.

    Raises:
        ValueError: An argument is outside its range; the message names it.
    """

    classes: ClassVar[tuple[tuple[str, RGB], ...]] = ADE.classes
    layout: ClassVar[tuple[str, ...]] = ADE.layout
    void_ids: ClassVar[tuple[int, ...]] = (0,)
    void_colours: ClassVar[tuple[RGB, ...]] = ((0, 0, 0),)

    def __init__(
        self, root: str, image_size: tuple[int, int] | None = None, count_void: bool = False, **common: Any
    ) -> None:
        self.count_void = count_void
        super().__init__(root, image_size=image_size, **common)

    @property
    def table(self) -> tuple[tuple[str, RGB], ...]:
        """Name and RGB colour of each class, in the order of the ids."""
        return (("unlabelled", (0, 0, 0)), *self.classes) if self.count_void else self.classes

    def mask_format(self) -> MaskFormat:
        """Return the format of the masks: 0 is void, or a class, and 255 does not occur."""
        plain = MaskFormat.of_classes(
            self.table, (), () if self.count_void else self.void_colours, kind=self.mask_kind, hint=_reduced
        )
        if self.count_void:
            return plain
        class_of = {0: IGNORE_INDEX, **{number + 1: number for number in range(len(self.classes))}}
        return MaskFormat(plain.class_names, class_of, plain.colours, plain.kind, plain.hint)

    def pairs(self, split: Split) -> list[FilePair]:
        """Return the files of a split, in order.

        Raises:
            DataError: Folders or files are missing.
        """
        base = first_folder(
            [self.root / "ADEChallengeData2016" / "images", self.root / "images"], self.root, self.layout_here
        ).parent
        folder = _FOLDERS[split]
        return pair_by_stem(base / "images" / folder, base / "annotations" / folder, self.layout_here)

    def test_split(self) -> Split:
        """Return ``val``: there is no test ground truth."""
        return "val"


def _reduced(present: Collection[int]) -> str | None:
    if 255 in present and all(value < 150 for value in present if value != 255):
        return "1 seems to be subtracted already, with 255 for unlabelled: take the masks as published, from 0 to 150."
    return None
