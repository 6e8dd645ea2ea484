"""PASCAL VOC 2012, also with SBD's further training masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from robustseg.data.base import Split
from robustseg.data.errors import DataError
from robustseg.data.facts.voc import PASCAL_VOC, voc_colour
from robustseg.data.file_data import FileData
from robustseg.data.folders import (
    check_listed,
    examples,
    existing_folder,
    first_folder,
    in_either_case,
    is_file,
    is_folder,
    listed,
    read_list,
)
from robustseg.data.masks import RGB, MaskFormat
from robustseg.data.pairing import FilePair
from robustseg.data.voc_download import download_sbd, download_voc
from robustseg.types import IGNORE_INDEX

TrainList = Literal["train", "trainaug"]
"""Training images: VOC's own, or those of SBD as well."""

_AUG_LISTS = ("train_aug.txt", "trainaug.txt", "aug.txt")
"""File names of the list; the last is mmsegmentation's and has SBD's images only, to which VOC's are always added."""


class PascalVOC(FileData):
    """PASCAL VOC 2012 with 21 classes: 1464 training (10582 with SBD) and 1449 validation images.

    Below ``root``, which may also hold ``VOC2012`` or be it:

    - ``VOCdevkit/VOC2012/JPEGImages/*.jpg``: the images
    - ``VOCdevkit/VOC2012/SegmentationClass/*.png``: masks, ids 0 to 20, 255 for void (the rim of objects)
    - ``VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val}.txt``: names of the samples of each split

    for ``train_list: trainaug`` also one of

    - ``SegmentationClassAug/*.png`` beside ``SegmentationClass``, with or without a list ``train_aug.txt``
    - below ``sbd_root``: ``benchmark_RELEASE/dataset/cls/*.mat`` and ``train.txt``, ``val.txt`` beside ``cls``

    ``trainaug`` is the union of SBD's two splits and VOC's training split without VOC's validation split, 10582 in all.
    A list may name the samples or, as is usual, the two files of each (``/JPEGImages/x.jpg
    /SegmentationClassAug/x.png``). The masks of VOC's own 1464 images are VOC's, with their rim; SBD's have none. The
    ground truth of the test images is not published: models are scored on the validation split.

    Everingham et al.: The PASCAL Visual Object Classes Challenge, IJCV 2010; Hariharan et al.: Semantic Contours from
    Inverse Detectors (SBD), ICCV 2011.

    Args:
        root: Folder that holds ``VOCdevkit`` or its tar, which is read in place.
        train_list: ``"train"``, or ``"trainaug"`` with SBD's masks.
        sbd_root: Folder that holds SBD, either its archive's ``benchmark_RELEASE`` or ``cls`` itself.
        download: Fetch missing files before training, by torchvision: VOC to ``root``, SBD to ``sbd_root``.
        image_size: (height, width) in pixels that every image is resized to; ``None`` keeps the files' size.
        count_void: Count void as background instead of ignoring it. Only for comparison with protocols that do so,
            such as that of SEA (Croce, Singh and Hein 2024).
        **common: See ``FileData``.

    Raises:
        ValueError: An argument is outside its range; the message names it.
    """

    classes: ClassVar[tuple[tuple[str, RGB], ...]] = PASCAL_VOC.classes
    layout: ClassVar[tuple[str, ...]] = PASCAL_VOC.layout
    void_colours: ClassVar[tuple[RGB, ...]] = (voc_colour(IGNORE_INDEX),)

    def __init__(
        self,
        root: str,
        train_list: TrainList = "train",
        sbd_root: str | None = None,
        download: bool = False,
        image_size: tuple[int, int] | None = None,
        count_void: bool = False,
        **common: Any,
    ) -> None:
        if train_list not in ("train", "trainaug"):
            raise ValueError(f"train_list = {train_list!r}: set data.train_list to train or trainaug.")
        if download and train_list == "trainaug" and sbd_root is None:
            raise ValueError("sbd_root is missing: set data.sbd_root to the folder that SBD is to be downloaded to.")
        self.count_void = count_void
        super().__init__(root, image_size=image_size, **common)
        self.train_list: TrainList = train_list
        self.sbd_root = None if sbd_root is None else Path(sbd_root).expanduser()
        self.download = download

    def mask_format(self) -> MaskFormat:
        """Return the format of the masks: 255 is void, or the background."""
        plain = MaskFormat.of_classes(self.table, self.void_ids, self.void_colours, kind=self.mask_kind)
        if not self.count_void:
            return plain
        class_of = {number: label % IGNORE_INDEX for number, label in plain.class_of.items()}
        colours = {colour: label % IGNORE_INDEX for colour, label in plain.colours.items()}
        return MaskFormat(plain.class_names, class_of, colours, plain.kind)

    def prepare_data(self) -> None:
        """Download missing files if ``download`` is set.

        Raises:
            DataError: The download failed.
        """
        if not self.download:
            return
        try:
            first_folder(self._bases(), self.root, self.layout_here)
        except DataError:  # neither unpacked nor in a whole archive
            download_voc(self.root)
        sbd = self.sbd_root if self.train_list == "trainaug" else None
        if sbd is not None and not any(is_folder(folder) for folder in _sbd_folders(sbd)):
            download_sbd(sbd)

    def _bases(self) -> list[Path]:
        places = [self.root / "VOCdevkit" / "VOC2012", self.root / "VOC2012", self.root]
        return [place / "JPEGImages" for place in places]

    def pairs(self, split: Split) -> list[FilePair]:
        """Return the files of a split, in order.

        Raises:
            DataError: Folders, files or lists are missing, or a list names missing files.
        """
        base = first_folder(self._bases(), self.root, self.layout_here).parent
        lists = existing_folder(base / "ImageSets" / "Segmentation", self.layout_here)
        masks = existing_folder(base / "SegmentationClass", self.layout_here)
        path = lists / f"{split}.txt"
        mask_of = {name: in_either_case(masks / f"{name}.png") for name in read_list(path)}
        image_of = {name: in_either_case(base / "JPEGImages" / f"{name}.jpg") for name in mask_of}
        check_listed(path, image_of)
        check_listed(path, mask_of)
        if split == "train" and self.train_list == "trainaug":
            without = set(read_list(lists / "val.txt"))
            if self.sbd_root is not None:
                more = self._sbd(self.sbd_root, base, without)
            else:
                more = self._class_aug(base, without)
            mask_of = {**{name: pair.mask for name, pair in more.items()}, **mask_of}
            image_of = {**{name: pair.image for name, pair in more.items()}, **image_of}
        return [FilePair(name, image_of[name], mask_of[name]) for name in sorted(mask_of)]

    def _sbd(self, root: Path, base: Path, without: set[str]) -> dict[str, FilePair]:
        """Return SBD's images and masks outside of VOC's validation split."""
        layout = f"{PASCAL_VOC.more_layout[1]} (set data.sbd_root)"
        folder = first_folder(_sbd_folders(root), root, layout).parent
        pairs: dict[str, FilePair] = {}
        for name in ("train.txt", "val.txt"):
            path = folder / name
            mask_of = {sample: in_either_case(folder / "cls" / f"{sample}.mat") for sample in read_list(path)}
            check_listed(path, mask_of)
            image_of = {sample: self._image(base, folder, sample) for sample in mask_of}
            check_listed(path, image_of)
            pairs |= {sample: FilePair(sample, image_of[sample], mask) for sample, mask in mask_of.items()}
        return {sample: pair for sample, pair in pairs.items() if sample not in without}

    @staticmethod
    def _image(base: Path, sbd: Path, sample: str) -> Path:
        own = in_either_case(base / "JPEGImages" / f"{sample}.jpg")
        return own if is_file(own) else in_either_case(sbd / "img" / f"{sample}.jpg")

    def _class_aug(self, base: Path, without: set[str]) -> dict[str, FilePair]:
        """Return the images and masks of a folder of converted SBD masks."""
        folder = base / "SegmentationClassAug"
        wanted = f"train_list: trainaug asks for SBD: {' or '.join(PASCAL_VOC.more_layout)}"
        existing_folder(folder, f"{wanted} (set data.sbd_root, or data.train_list to train)")
        places = [base / "ImageSets" / "Segmentation", base / "ImageSets" / "SegmentationAug", base, folder]
        path = next((place / name for place in places for name in _AUG_LISTS if is_file(place / name)), None)
        masks = [mask for mask in listed(folder) if mask.suffix in (".png", ".PNG") and not mask.name.startswith(".")]
        names = read_list(path, paths=True) if path else [mask.stem for mask in masks]
        if path and (common := sorted(without.intersection(names))):
            raise DataError(
                f"{path} names {len(common)} images of VOC's validation split, such as {common[0]}: take them out."
            )
        names = [name for name in names if name not in without]
        mask_of = {name: in_either_case(folder / f"{name}.png") for name in names}
        image_of = {name: in_either_case(base / "JPEGImages" / f"{name}.jpg") for name in names}
        if path:
            check_listed(path, mask_of)
            check_listed(path, image_of)
        elif alone := [name for name, image in image_of.items() if not is_file(image)]:
            raise DataError(
                f"no image in {base / 'JPEGImages'} for the mask {examples(alone)} of {folder}: add it, or remove the "
                f"mask."
            )
        return {name: FilePair(name, image_of[name], mask_of[name]) for name in names}

    def test_split(self) -> Split:
        """Return ``val``: there is no test ground truth."""
        return "val"


def _sbd_folders(root: Path) -> list[Path]:
    return [root / "benchmark_RELEASE" / "dataset" / "cls", root / "dataset" / "cls", root / "cls"]
