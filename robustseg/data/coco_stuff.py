"""COCO-Stuff, with all 164k images' classes of things and stuff."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from robustseg.data.base import Split
from robustseg.data.facts.coco import COCO_IDS, COCO_STUFF
from robustseg.data.file_data import FileData, refuse_colours
from robustseg.data.files import PairedFiles
from robustseg.data.folders import first_folder
from robustseg.data.masks import RGB, MaskFormat
from robustseg.data.pairing import FilePair, files_by_name, pair_up
from robustseg.types import IGNORE_INDEX

_TRAIN_IDS = "_labelTrainIds"


class COCOStuff(FileData):
    """COCO-Stuff (164k) with 171 classes of things and stuff: 118287 training and 5000 validation images.

    Below ``root``, which may also hold ``coco_stuff164k``:

    - ``images/{train2017,val2017}/*.jpg``: the images, of many sizes
    - ``annotations/{train2017,val2017}/*.png``: masks of the same names, ids 0 to 181, 255 for unlabelled; or
      ``*_labelTrainIds.png``, ids 0 to 170

    The folders may also be called as COCO has them: ``train2017`` and ``stuffthingmaps/train2017``. Masks as published
    are taken where both kinds are there. The test images have no ground truth: models are scored on the validation
    split.

    Caesar, Uijlings and Ferrari: COCO-Stuff: Thing and Stuff Classes in Context, CVPR 2018.

    Args:
        root: Folder that holds ``images`` and ``annotations``.
        image_size: (height, width) in pixels that every image is resized to; ``None`` keeps the files' size.
        **common: See ``FileData``; ``masks: colours`` is refused.

    Raises:
        ValueError: An argument is outside its range; the message names it.
    """

    classes: ClassVar[tuple[tuple[str, RGB], ...]] = COCO_STUFF.classes
    layout: ClassVar[tuple[str, ...]] = COCO_STUFF.layout

    def __init__(self, root: str, image_size: tuple[int, int] | None = None, **common: Any) -> None:
        super().__init__(root, image_size=image_size, **common)
        refuse_colours(self)

    def mask_format(self) -> MaskFormat:
        """Return the format of the published masks."""
        class_of = {number: label for label, number in enumerate(COCO_IDS)} | {IGNORE_INDEX: IGNORE_INDEX}
        return MaskFormat(tuple(self.class_names), class_of, {}, self.mask_kind, painted=False)

    def train_format(self) -> MaskFormat:
        """Return the format of masks with the ids 0 to 170."""
        class_of = {number: number for number in (*range(len(self.classes)), IGNORE_INDEX)}
        return MaskFormat(tuple(self.class_names), class_of, {}, self.mask_kind, painted=False)

    def pairs(self, split: Split) -> list[FilePair]:
        """Return the files of a split, in order.

        Raises:
            DataError: Folders or files are missing.
        """
        bases = [self.root, self.root / "coco_stuff164k"]
        images = self._folder([base / "images" for base in bases] + bases, split)
        masks = self._folder([base / name for base in bases for name in ("annotations", "stuffthingmaps")], split)
        image_of = files_by_name(images, (".jpg",), self.layout_here)
        found = files_by_name(masks, (".png",), self.layout_here)
        mask_of = {name: path for name, path in found.items() if not name.endswith(_TRAIN_IDS)}
        if not mask_of:
            mask_of = {name.removesuffix(_TRAIN_IDS): path for name, path in found.items()}
        return pair_up(image_of, mask_of, images, masks)

    def _folder(self, bases: list[Path], split: Split) -> Path:
        return first_folder([base / f"{split}2017" for base in bases], self.root, self.layout_here)

    def make_dataset(self, split: Split) -> PairedFiles:
        """Open a split.

        Raises:
            DataError: Folders or files are missing, or ``check`` found one that cannot be used.
        """
        pairs = self.pairs(split)
        reduced = pairs[0].mask.stem.endswith(_TRAIN_IDS)
        return self.open_pairs(pairs, split, self.train_format() if reduced else self.mask_format())

    def test_split(self) -> Split:
        """Return ``val``: there is no test ground truth."""
        return "val"
