"""Folders of the user's own images and masks, with a table of classes in YAML."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from robustseg.data.base import Split
from robustseg.data.class_table import read_class_table
from robustseg.data.dataset import SegmentationDataset
from robustseg.data.facts.own import FOLDER_PAIRS
from robustseg.data.file_data import FileData
from robustseg.data.files import Check
from robustseg.data.folders import is_file, is_folder
from robustseg.data.image_files import ImageFiles
from robustseg.data.masks import RGB, MaskFormat
from robustseg.data.pairing import (
    IMAGE_SUFFIXES,
    NAME,
    FilePair,
    all_files,
    check_pattern,
    files_by_name,
    listed_files,
    listed_pairs,
    pair_by_stem,
)
from robustseg.shipped.names import files, plain
from robustseg.types import IGNORE_INDEX


class FolderPairs(FileData):
    """Folders of images and of masks of the same names, with a class table in a YAML file.

    Below ``root``, in folders that ``image_folder`` and ``mask_folder`` name:

    - ``{train,val,test}/images/**/*.jpg`` (PNG, BMP, TIFF, WebP): the images, in subfolders or not
    - ``{train,val,test}/masks/**/*.png`` (TIFF, BMP, GIF, PGM): masks of the same relative paths, ids or colours of the
      class table

    The class table is a file such as ``classes/example``, which robustseg configs prints::

        classes:
          - {name: road, id: 7, colour: [128, 64, 128]}
          - {name: car, id: 26, colour: [0, 0, 142]}
          - {name: unlabelled, id: 0, colour: [0, 0, 0], ignore: true}

    The rows that are not ignored are the classes, numbered from 0 in their order, not by their ids in the files.
    Several ids of one class are a list, ``id: [7, 8]``, and so are colours. An id or a colour that is not in the table
    is an error, and so is a picture that would be passed over. A sample's id is its relative path without suffix.
    Without a ``test`` folder models are scored on the validation split. An image with an EXIF orientation, by which
    viewers turn it, is an error, since its mask may match the stored or the displayed image.

    Args:
        root: Folder that holds the splits, or a zip or plain tar of it.
        classes: Path of the class table, relative to the working directory or, if it is not there, to ``root``.
        image_folder: Folder of a split's images below ``root``; ``{split}`` is replaced by the split's name.
        mask_folder: Folder of its masks; null for images without masks, which models are evaluated on with
            ``robustness.targets: predictions``.
        image_name: Pattern of the images' names without suffix; ``{name}`` is what they share with the masks, as in
            ``{name}_leftImg8bit`` or ``img_{name}``.
        mask_name: Pattern of the masks' names.
        image_end: Ending of the images' names, short for ``image_name: {name}END``.
        mask_end: Ending of the masks' names.
        split_files: Text file of each split, as seen from ``root`` or the working directory, with the name of one
            sample per line, with or without suffix; blank lines and those that begin with # are skipped. The folders
            may then be the same for all splits, and hold more than the lists name.
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
        image_name: str = NAME,
        mask_name: str = NAME,
        split_files: dict[str, str] | None = None,
        image_size: tuple[int, int] | None = None,
        check: Check = "headers",
        **common: Any,
    ) -> None:
        self.rows = read_class_table(_table_path(classes, Path(root).expanduser()))
        self.split_files = {split: Path(path) for split, path in _of_splits("split_files", split_files or {}).items()}
        self.image_folder = _template("image_folder", image_folder, bool(split_files))
        self.mask_folder = None if mask_folder is None else _template("mask_folder", mask_folder, bool(split_files))
        self.image_name = _pattern("image", image_name, image_end)
        self.mask_name = _pattern("mask", mask_name, mask_end)
        if (self.image_folder, self.image_name) == (self.mask_folder, self.mask_name):
            raise ValueError(
                f"mask_folder = {mask_folder!r} is image_folder as well: set another one, or data.mask_name to the "
                f"pattern of the masks' names, such as {NAME}_mask."
            )
        self.split_names = _split_names(split_names or {})
        super().__init__(root, image_size=image_size, check=check, **common)

    @property
    def table(self) -> tuple[tuple[str, RGB], ...]:
        """Name and RGB colour of each class, in the order of the ids."""
        return tuple((row.name, row.colours[0]) for row in self.rows if not row.ignore)

    def mask_format(self) -> MaskFormat:
        """Return the format of the masks, from the class table."""
        kept = [row.name for row in self.rows if not row.ignore]
        class_of: dict[int, int] = {}
        colours: dict[RGB, int] = {}
        for row in self.rows:
            label = IGNORE_INDEX if row.ignore else kept.index(row.name)
            class_of |= dict.fromkeys(row.ids, label)
            colours |= dict.fromkeys(row.colours, label)
        return MaskFormat(tuple(kept), class_of, colours, self.mask_kind, _binary)

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
        files = files_by_name(images, IMAGE_SUFFIXES, layout, True, self.image_name)
        if split in self.split_files:
            files = dict(listed_files(self._list(split), {"image": files}))
        augment = self.augmentation if split == "train" else None
        return ImageFiles(files, self.resize(), augment, self.cache, self.check, self.convert)

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
        if split not in self.split_files:
            return pair_by_stem(images, masks, layout, True, self.image_name, self.mask_name)
        image_of, mask_of = all_files(images, masks, layout, True, self.image_name, self.mask_name)
        return listed_pairs(self._list(split), self._lists(split), image_of, mask_of)

    def _list(self, split: Split) -> Path:
        """Return the list of a split: in the working directory or, if it is not there, in ``root``."""
        path = self.split_files[split].expanduser()
        return path if is_file(path) else self.root / path

    def _lists(self, split: Split) -> list[Path]:
        """Return the lists that must not share a sample with a split's: those of training and of the others."""
        others = [other for other in self.split_files if other != split and "train" in (split, other)]
        return [self._list(other) for other in others]

    def test_split(self) -> Split:
        """Return ``test``, or ``val`` without such a list or folder."""
        if self.split_files:
            return "test" if "test" in self.split_files else "val"
        return "test" if is_folder(self._folder(self.image_folder, "test")) else "val"


def _table_path(classes: str, root: Path) -> Path:
    """Find the class table: in the working directory, in ``root``, or among the shipped files, in this order."""
    path = Path(classes).expanduser()
    found = next((each for each in (path, root / path) if is_file(each)), None)
    return found or files().get(plain(classes), path)


def _template(name: str, template: str, listed: bool) -> str:
    if template.replace("{split}", "").count("{") or "}" in template.replace("{split}", ""):
        raise ValueError(f"{name} = {template!r} has other braces than {{split}}: write {{split}}/images, for example.")
    if "{split}" not in template and not listed:
        raise ValueError(
            f"{name} = {template!r} is the same folder for every split: put {{split}} where the split's name stands, "
            f"or name the lists of the splits in data.split_files."
        )
    return template


def _pattern(kind: str, pattern: str, end: str) -> str:
    if end and pattern != NAME:
        raise ValueError(
            f"{kind}_name = {pattern!r} and {kind}_end = {end!r} contradict each other: leave data.{kind}_end out."
        )
    return check_pattern(f"{kind}_name", pattern if not end else f"{NAME}{end}")


def _of_splits(option: str, names: Mapping[str, str]) -> dict[Split, str]:
    for split in names:
        if split not in ("train", "val", "test"):
            raise ValueError(f"{option} has the key {split!r}: its keys are train, val and test.")
    return cast("dict[Split, str]", dict(names))


def _split_names(names: Mapping[str, str]) -> dict[Split, str]:
    used = [names.get(split, split) for split in ("train", "val")]
    if used[0] == used[1]:
        raise ValueError(f"split_names = {dict(names)!r} gives train and val the same name: validate on other images.")
    return _of_splits("split_names", names)


def _binary(present: Collection[int]) -> str | None:
    """Return the table for masks of one class, black and white or 0 and 1."""
    if not {0} < set(present) | {0} <= {0, 1, 255} or {1, 255} <= set(present):
        return None
    rows = (("background", 0, 0), ("object", max(present), 255))
    table = ", ".join(
        f"{{name: {name}, id: {number}, colour: [{grey}, {grey}, {grey}]}}" for name, number, grey in rows
    )
    return f"for masks of one class and its background the table (data.classes) is classes: [{table}]"
