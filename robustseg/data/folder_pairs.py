"""Folders of the user's own images and masks, with a table of classes in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from robustseg.data.base import Split
from robustseg.data.class_table import read_class_table
from robustseg.data.dataset import SegmentationDataset
from robustseg.data.facts.own import FOLDER_PAIRS
from robustseg.data.file_data import FileData
from robustseg.data.files import IMAGE_SUFFIXES, Check, FilePair, files_by_name, pair_by_stem
from robustseg.data.folders import is_file, is_folder
from robustseg.data.image_files import ImageFiles
from robustseg.data.masks import RGB, MaskFormat
from robustseg.shipped.names import files, plain
from robustseg.types import IGNORE_INDEX


class FolderPairs(FileData):
    """Folders of images and of masks of the same names, with a class table in a YAML file.

    Below ``root``, in folders that ``image_folder`` and ``mask_folder`` name:

    - ``{train,val,test}/images/**/*.jpg`` (or PNG): the images, in subfolders or not
    - ``{train,val,test}/masks/**/*.png``: masks of the same relative paths, ids or colours of the class table

    The class table is a file such as ``classes/example``, which robustseg configs prints::

        classes:
          - {name: road, id: 7, colour: [128, 64, 128]}
          - {name: car, id: 26, colour: [0, 0, 142]}
          - {name: unlabelled, id: 0, colour: [0, 0, 0], ignore: true}

    The rows that are not ignored are the classes, numbered from 0 in their order, not by their ids in the files.
    An id or a colour that is not in the table is an error. A sample's id is its relative path without suffix. Without
    a ``test`` folder models are scored on the validation split. An image with an EXIF orientation, by which
    viewers turn it, is an error, since its mask may match the stored or the displayed image.

    Args:
        root: Folder that holds the splits.
        classes: Path of the class table, relative to the working directory or, if it is not there, to ``root``.
        image_folder: Folder of a split's images below ``root``; ``{split}`` is replaced by the split's name.
        mask_folder: Folder of its masks; null for images without masks, which models are evaluated on with
            ``robustness.targets: predictions``.
        image_end: Ending of the images' names, before the suffix, after the name that they share with the mask.
        mask_end: Ending of the masks' names, such as ``_mask``; files without it are skipped.
        split_names: Folder names of ``train``, ``val`` and ``test`` if they differ, such as ``{val: validation}``.
        image_size: (height, width) in pixels that every image is resized to; ``None`` keeps the files' size.
        check: See ``FileData``.
        **common: See ``FileData``, among them ``masks: colours``.

    Raises:
        DataError: The class table is missing or faulty.
        ValueError: An argument is outside its range; the message names it.
    """

    layout: ClassVar[tuple[str, ...]] = FOLDER_PAIRS.layout
    upright: ClassVar[bool] = True

    def __init__(
        self,
        root: str,
        classes: str,
        image_folder: str = "{split}/images",
        mask_folder: str | None = "{split}/masks",
        image_end: str = "",
        mask_end: str = "",
        split_names: dict[str, str] | None = None,
        image_size: tuple[int, int] | None = None,
        check: Check = "headers",
        **common: Any,
    ) -> None:
        self.rows = read_class_table(_table_path(classes, Path(root).expanduser()))
        self.image_folder = _template("image_folder", image_folder)
        self.mask_folder = None if mask_folder is None else _template("mask_folder", mask_folder)
        if self.image_folder == self.mask_folder and image_end == mask_end:
            raise ValueError(
                f"mask_folder = {mask_folder!r} is image_folder as well: set another one, or data.mask_end to what the "
                f"names of masks end in."
            )
        self.image_end, self.mask_end = image_end, mask_end
        self.split_names = _split_names(split_names or {})
        super().__init__(root, image_size=image_size, check=check, **common)

    @property
    def table(self) -> tuple[tuple[str, RGB], ...]:
        """Name and RGB colour of each class, in the order of the ids."""
        return tuple((row.name, row.colour) for row in self.rows if not row.ignore)

    def mask_format(self) -> MaskFormat:
        """Return the format of the masks, from the class table."""
        label_of = {row.name: number for number, row in enumerate(row for row in self.rows if not row.ignore)}
        labels = [(row, label_of.get(row.name, IGNORE_INDEX)) for row in self.rows]
        class_of = {row.id: label for row, label in labels}
        return MaskFormat(tuple(label_of), class_of, {row.colour: label for row, label in labels}, self.mask_kind)

    @property
    def labelled(self) -> bool:
        """False without a folder of masks."""
        return self.mask_folder is not None

    def make_dataset(self, split: Split) -> SegmentationDataset:
        """Open a split; without a folder of masks all pixels are void.

        Raises:
            DataError: Folders or files are missing, or ``check`` found one that cannot be used.
        """
        if self.mask_folder is not None:
            return super().make_dataset(split)
        images = self._folder(self.image_folder, split)
        layout = f"images in {images} (set data.root or data.image_folder)"
        files = files_by_name(images, IMAGE_SUFFIXES, layout, True, self.image_end)
        augment = self.augmentation if split == "train" else None
        return ImageFiles(files, self.resize(), augment, self.cache, self.check)

    def _folder(self, template: str, split: Split) -> Path:
        return self.root / template.format(split=self.split_names.get(split, split))

    def pairs(self, split: Split) -> list[FilePair]:
        """Return the files of a split, in order.

        Raises:
            DataError: Folders or files are missing.
        """
        assert self.mask_folder is not None
        images, masks = self._folder(self.image_folder, split), self._folder(self.mask_folder, split)
        layout = f"images in {images} and masks in {masks} (set data.root, data.image_folder or data.mask_folder)"
        return pair_by_stem(images, masks, layout, True, self.image_end, self.mask_end)

    def test_split(self) -> Split:
        """Return ``test``, or ``val`` without such a folder."""
        return "test" if is_folder(self._folder(self.image_folder, "test")) else "val"


def _table_path(classes: str, root: Path) -> Path:
    """Find the class table: in the working directory, in ``root``, or among the shipped files, in this order."""
    path = Path(classes).expanduser()
    found = next((each for each in (path, root / path) if is_file(each)), None)
    return found or files().get(plain(classes), path)


def _template(name: str, template: str) -> str:
    if template.replace("{split}", "").count("{") or "}" in template.replace("{split}", ""):
        raise ValueError(f"{name} = {template!r} has other braces than {{split}}: write {{split}}/images, for example.")
    if "{split}" not in template:
        raise ValueError(
            f"{name} = {template!r} is the same folder for every split: put {{split}} where the split's name stands."
        )
    return template


def _split_names(names: Mapping[str, str]) -> dict[Split, str]:
    for split in names:
        if split not in ("train", "val", "test"):
            raise ValueError(f"split_names has the key {split!r}: its keys are train, val and test.")
    used = [names.get(split, split) for split in ("train", "val")]
    if used[0] == used[1]:
        raise ValueError(f"split_names = {dict(names)!r} gives train and val the same name: validate on other images.")
    return cast("dict[Split, str]", dict(names))
