"""Cityscapes, with the 19 classes that are evaluated."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from robustseg.data.base import Split
from robustseg.data.errors import DataError
from robustseg.data.facts.cityscapes import CITYSCAPES
from robustseg.data.file_data import FileData
from robustseg.data.files import PairedFiles
from robustseg.data.folders import files_below, first_folder
from robustseg.data.masks import RGB, MaskFormat
from robustseg.data.pairing import FilePair, files_by_name, pair_up
from robustseg.types import IGNORE_INDEX

LabelKind = Literal["auto", "labelIds", "labelTrainIds"]
"""Kind of the mask files to read."""

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label id of each train id; the other label ids up to 33 belong to no class that is evaluated."""
VOID_COLOURS: tuple[RGB, ...] = (
    (0, 0, 0), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180), (150, 100, 100),
    (150, 120, 90), (0, 0, 90), (0, 0, 110),
)  # fmt: skip
"""Colours of the labels without a train id."""

_PROBED = 8
"""Number of masks that are decoded in advance to distinguish the two kinds."""


def are_label_ids(present: Collection[int]) -> bool:
    """Return whether a mask that should hold train ids (to 18) holds Cityscapes label ids (to 33).

    Args:
        present: Ids in the mask, unexpected ones included.
    """
    foreign = [value for value in present if value > len(CITYSCAPES.classes) - 1 and value != IGNORE_INDEX]
    return bool(foreign) and max(foreign) <= max(LABEL_IDS)


def _hint(present: Collection[int]) -> str | None:
    if not are_label_ids(present):
        return None
    return (
        "they are Cityscapes label ids in place of train ids: set data.label_ids to labelIds and call the files so, or "
        "convert them (cityscapesscripts' createTrainIdLabelImgs)."
    )


def _label_hint(present: Collection[int]) -> str | None:
    """Recognise train ids in a file called labelIds, which would otherwise be read as other labels.

    All train ids are label ids as well, except 255, which every such mask holds for the car that carries the camera.
    """
    others = [value for value in present if value != IGNORE_INDEX]
    if len(others) == len(present) or max(others, default=0) >= len(CITYSCAPES.classes):
        return None
    return (
        "the file holds train ids (0-18 and 255) in place of label ids (0-33): rename such files to "
        "*_gtFine_labelTrainIds.png, or unpack gtFine again."
    )


class Cityscapes(FileData):
    """Cityscapes with fine annotations: 2975 training, 500 validation and 1525 test images of 2048×1024 pixels.

    Below ``root``:

    - ``leftImg8bit/{train,val,test}/CITY/*_leftImg8bit.png``: the images
    - ``gtFine/{train,val,test}/CITY/*_gtFine_labelIds.png`` or ``*_gtFine_labelTrainIds.png``: the masks

    The label ids 0 to 33 become the 19 train ids by the official table. They are not read from the colours of
    ``*_gtFine_color.png``, since groups of poles, which are not evaluated, have the colour of poles there. The ground
    truth of the test images is not published, so models are scored on the validation split. A sample's id is its file
    name without ``_leftImg8bit.png``.

    Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016.

    Args:
        root: Folder that holds ``leftImg8bit`` and ``gtFine``, or their two zips, which are read in place.
        label_ids: ``"labelIds"`` as published, ``"labelTrainIds"`` as cityscapesscripts makes them, or ``"auto"``:
            the latter if every image of a split has such a file.
        image_size: (height, width) in pixels that every image is resized to; ``None`` keeps the files' size.
        **common: See ``FileData``; ``masks: colours`` is refused.

    Raises:
        ValueError: An argument is outside its range; the message names it.
    """

    classes: ClassVar[tuple[tuple[str, RGB], ...]] = CITYSCAPES.classes
    layout: ClassVar[tuple[str, ...]] = CITYSCAPES.layout
    void_colours: ClassVar[tuple[RGB, ...]] = VOID_COLOURS

    def __init__(
        self,
        root: str,
        label_ids: LabelKind = "auto",
        image_size: tuple[int, int] | None = None,
        **common: Any,
    ) -> None:
        if label_ids not in ("auto", "labelIds", "labelTrainIds"):
            raise ValueError(f"label_ids = {label_ids!r}: set data.label_ids to auto, labelIds or labelTrainIds.")
        self.label_ids: LabelKind = label_ids
        super().__init__(root, image_size=image_size, **common)
        if self.mask_kind == "colours":
            raise ValueError(
                "masks = 'colours': Cityscapes paints pole, a class, and polegroup, which is none, in the same colour "
                "(153, 153, 153); set data.masks to ids."
            )

    def mask_format(self) -> MaskFormat:
        """Return the format of masks with train ids."""
        settings = {"kind": self.mask_kind, "hint": _hint, "painted": False}
        return MaskFormat.of_classes(self.classes, self.void_ids, self.void_colours, **settings)

    def label_format(self) -> MaskFormat:
        """Return the format of masks with label ids, without 255: files with it hold train ids."""
        plain = self.mask_format()
        class_of = dict.fromkeys(range(max(LABEL_IDS) + 1), IGNORE_INDEX)
        class_of.update((label, train) for train, label in enumerate(LABEL_IDS))
        return MaskFormat(plain.class_names, class_of, plain.colours, plain.kind, _label_hint, painted=False)

    def pairs(self, split: Split) -> list[FilePair]:
        """Return the files of a split, in order.

        Raises:
            DataError: Folders or files are missing.
        """
        return self._pairs(split)[0]

    def _pairs(self, split: Split) -> tuple[list[FilePair], Literal["labelIds", "labelTrainIds"]]:
        layout = self.layout_here
        images, masks = (
            first_folder([self.root / name / split], self.root, layout) for name in ("leftImg8bit", "gtFine")
        )
        image_of = _by_id(files_by_name(images, (".png",), layout, nested=True, pattern="{name}_leftImg8bit"))
        kind = self.label_ids
        if kind == "auto":
            kind = "labelIds"
            if image_of.keys() <= _names(masks, "labelTrainIds"):
                kind = "labelTrainIds"
        mask_of = _by_id(files_by_name(masks, (".png",), layout, nested=True, pattern=f"{{name}}_gtFine_{kind}"))
        return pair_up(image_of, mask_of, f"{images} (*_leftImg8bit.png)", f"{masks} (*_gtFine_{kind}.png)"), kind

    def make_dataset(self, split: Split) -> PairedFiles:
        """Open a split.

        Raises:
            DataError: Folders or files are missing, or ``check`` found one that cannot be used.
        """
        pairs, kind = self._pairs(split)
        masks = self.label_format() if kind == "labelIds" else self.mask_format()
        if self.check != "none":  # one kind under the name of the other is common, and no header shows it
            for index in np.linspace(0, len(pairs) - 1, min(_PROBED, len(pairs))).round().astype(int):
                masks.read(pairs[index].mask)
        return self.open_pairs(pairs, split, masks)

    def test_split(self) -> Split:
        """Return ``val``: the test masks are published empty."""
        return "val"


def _names(folder: Path, kind: str) -> set[str]:
    end = f"_gtFine_{kind}.png"
    return {path.name.removesuffix(end) for path in files_below(folder) if path.name.endswith(end)}


def _by_id(found: dict[str, Path]) -> dict[str, Path]:
    """Return the files by the last part of their names, which begins with the city."""
    by_id: dict[str, Path] = {}
    for name, path in found.items():
        sample = name.rsplit("/", 1)[-1]
        if sample in by_id:
            raise DataError(f"{by_id[sample]} and {path} are both called {sample}: keep one of them.")
        by_id[sample] = path
    return by_id
