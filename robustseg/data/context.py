"""PASCAL Context, in mmsegmentation's masks."""

from __future__ import annotations

from typing import Any, ClassVar

from robustseg.data.base import Split
from robustseg.data.facts.context import PASCAL_CONTEXT
from robustseg.data.file_data import FileData, refuse_colours
from robustseg.data.folders import check_listed, existing_folder, first_folder, in_either_case, read_list
from robustseg.data.masks import RGB, MaskFormat
from robustseg.data.pairing import FilePair
from robustseg.types import IGNORE_INDEX


class PascalContext(FileData):
    """PASCAL Context with 59 classes, or 60 with the background: 4996 training and 5104 validation images.

    Below ``root``, which may also hold ``VOC2010`` or be it:

    - ``VOCdevkit/VOC2010/JPEGImages/*.jpg``: the images
    - ``VOCdevkit/VOC2010/SegmentationClassContext/*.png``: masks, ids 1 to 59, 0 for the background, as mmsegmentation
      writes them
    - ``VOCdevkit/VOC2010/ImageSets/SegmentationContext/{train,val}.txt``: names of the samples of each split

    Models are scored on the validation split.

    Mottaghi et al.: The Role of Context for Object Detection and Semantic Segmentation in the Wild, CVPR 2014.

    Args:
        root: Folder that holds ``VOCdevkit``.
        image_size: (height, width) in pixels that every image is resized to; ``None`` keeps the files' size.
        background: Count the background as class 0 of 60 instead of ignoring it.
        **common: See ``FileData``; ``masks: colours`` is refused.

    Raises:
        ValueError: An argument is outside its range; the message names it.
    """

    classes: ClassVar[tuple[tuple[str, RGB], ...]] = PASCAL_CONTEXT.classes
    layout: ClassVar[tuple[str, ...]] = PASCAL_CONTEXT.layout

    def __init__(
        self, root: str, image_size: tuple[int, int] | None = None, background: bool = False, **common: Any
    ) -> None:
        self.background = background
        super().__init__(root, image_size=image_size, **common)
        refuse_colours(self)

    @property
    def table(self) -> tuple[tuple[str, RGB], ...]:
        """Name and RGB colour of each class, in the order of the ids."""
        return (("background", (0, 0, 0)), *self.classes) if self.background else self.classes

    def mask_format(self) -> MaskFormat:
        """Return the format of the masks: 0 is void, or a class; 255 is void."""
        first = 0 if self.background else 1
        class_of = {0: IGNORE_INDEX, IGNORE_INDEX: IGNORE_INDEX}
        class_of |= {number + first: number for number in range(len(self.table))}
        return MaskFormat(tuple(self.class_names), class_of, {}, self.mask_kind, painted=False)

    def pairs(self, split: Split) -> list[FilePair]:
        """Return the files of a split, in order.

        Raises:
            DataError: Folders, files or lists are missing, or a list names missing files.
        """
        places = [self.root / "VOCdevkit" / "VOC2010", self.root / "VOC2010", self.root]
        base = first_folder([place / "JPEGImages" for place in places], self.root, self.layout_here).parent
        path = existing_folder(base / "ImageSets" / "SegmentationContext", self.layout_here) / f"{split}.txt"
        masks = existing_folder(base / "SegmentationClassContext", self.layout_here)
        names = sorted(read_list(path))
        mask_of = {name: in_either_case(masks / f"{name}.png") for name in names}
        image_of = {name: in_either_case(base / "JPEGImages" / f"{name}.jpg") for name in names}
        check_listed(path, image_of)
        check_listed(path, mask_of)
        return [FilePair(name, image_of[name], mask_of[name]) for name in names]

    def test_split(self) -> Split:
        """Return ``val``: there is no test ground truth."""
        return "val"
