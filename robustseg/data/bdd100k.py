"""The semantic segmentation part of BDD100K."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from robustseg.data.base import Split
from robustseg.data.cityscapes import VOID_COLOURS, are_label_ids
from robustseg.data.facts.cityscapes import BDD
from robustseg.data.file_data import FileData
from robustseg.data.folders import first_folder, is_folder
from robustseg.data.masks import RGB, MaskFormat
from robustseg.data.pairing import FilePair, pair_by_stem


class BDD100K(FileData):
    """BDD100K's 10k images with Cityscapes' 19 classes: 7000 training, 1000 validation and 2000 test images.

    Below ``root``, which may also be ``bdd100k`` or ``seg`` itself, images of 1280×720 pixels:

    - ``bdd100k/images/10k/{train,val,test}/*.jpg``: the images
    - ``bdd100k/labels/sem_seg/masks/{train,val}/*.png``: masks of the same names, train ids 0 to 18, 255 for void
    - or, as first published, ``seg/images/{train,val,test}/*.jpg`` and ``seg/labels/{train,val}/*_train_id.png``

    The ground truth of the test images is not published: models are scored on the validation split.

    Yu et al.: BDD100K: A Diverse Driving Dataset for Heterogeneous Multitask Learning, CVPR 2020.

    Args:
        root: Folder that holds ``bdd100k`` or ``seg``.
        image_size: (height, width) in pixels that every image is resized to; ``None`` keeps the files' size.
        **common: See ``FileData``.

    Raises:
        ValueError: An argument is outside its range; the message names it.
    """

    classes: ClassVar[tuple[tuple[str, RGB], ...]] = BDD.classes
    layout: ClassVar[tuple[str, ...]] = BDD.layout
    void_colours: ClassVar[tuple[RGB, ...]] = VOID_COLOURS

    def mask_format(self) -> MaskFormat:
        """Return the format of masks with train ids."""
        return MaskFormat.of_classes(self.classes, self.void_ids, self.void_colours, kind=self.mask_kind, hint=_hint)

    def pairs(self, split: Split) -> list[FilePair]:
        """Return the files of a split, in order.

        Raises:
            DataError: Folders or files are missing.
        """
        layout = self.layout_here
        newer = [self.root / "bdd100k" / "images" / "10k", self.root / "images" / "10k"]
        older = [self.root / "seg" / "images", self.root / "bdd100k" / "seg" / "images", self.root / "images"]
        images = first_folder([*newer, *older], self.root, layout)
        if images.name == "10k":
            masks = images.parent.parent / "labels" / "sem_seg" / "masks"
            if not is_folder(masks / split):  # images and masks are published as two archives
                masks = first_folder(
                    [masks, *(place.parent.parent / "labels" / "sem_seg" / "masks" for place in newer)],
                    self.root,
                    layout,
                )
            return pair_by_stem(images / split, masks / split, layout)
        return pair_by_stem(images / split, images.parent / "labels" / split, layout, mask_name="{name}_train_id")

    def test_split(self) -> Split:
        """Return ``val``: there is no test ground truth."""
        return "val"


def _hint(present: Collection[int]) -> str | None:
    if not are_label_ids(present):
        return None
    return (
        "they are Cityscapes label ids in place of train ids: convert them by Cityscapes' table (7 to 0, 8 to 1 ... 33 "
        "to 18, those of no class to 255), or unpack the masks as published again."
    )
