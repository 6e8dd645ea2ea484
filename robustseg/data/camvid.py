"""CamVid with the 11 classes of SegNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from robustseg.data.base import SegmentationDataModule, Split
from robustseg.data.files import Check, PairedFiles, pair_by_stem


class CamVid(SegmentationDataModule):
    """CamVid in SegNet's layout: 367 training, 101 validation and 233 test images of 480×360 pixels.

    ``root/{train,val,test}/*.png`` (or JPEG) are the images, ``root/{train,val,test}annot/*.png`` the masks of the
    same names, in which 0 to 10 are classes and 11 is void. Without a ``test`` folder ``test_dataloader`` reads the
    validation split.

    Brostow, Fauqueur and Cipolla: Semantic object classes in video, 2009; Badrinarayanan, Kendall and Cipolla:
    SegNet, 2017.

    Args:
        root: Folder that holds ``train``, ``trainannot`` and so on.
        image_size: (height, width) in pixels that every image is resized to; ``None`` keeps the files' size.
        check: What to look at before training: ``"all"`` decodes every file once, which takes seconds,
            ``"headers"`` finds missing, unreadable and ill-sized files only, ``"none"`` leaves all of it to later.
        **common: See ``SegmentationDataModule``. With ``cache`` the training split takes 254 MB and the validation
            split 70 MB at full size, in every worker process.

    Raises:
        ValueError: An argument is outside its range; the message names it.
    """

    classes: ClassVar[tuple[tuple[str, tuple[int, int, int]], ...]] = (
        ("Sky", (128, 128, 128)),
        ("Building", (128, 0, 0)),
        ("Pole", (192, 192, 128)),
        ("Road", (128, 64, 128)),
        ("Pavement", (60, 40, 222)),
        ("Tree", (128, 128, 0)),
        ("SignSymbol", (192, 128, 128)),
        ("Fence", (64, 64, 128)),
        ("Car", (64, 0, 128)),
        ("Pedestrian", (64, 64, 0)),
        ("Bicyclist", (0, 128, 192)),
    )
    void_ids: ClassVar[tuple[int, ...]] = (11,)

    def __init__(
        self,
        root: str,
        image_size: tuple[int, int] | None = (360, 480),
        check: Check = "all",
        **common: Any,
    ) -> None:
        super().__init__(image_size=image_size, **common)
        self.root = Path(root).expanduser()
        self.check: Check = check

    def make_dataset(self, split: Split) -> PairedFiles:
        """Open a split.

        Raises:
            DataError: Folders or files are missing, or ``check`` found one that cannot be used.
        """
        layout = f"images in {self.root}/{split} and masks in {self.root}/{split}annot (set data.root)"
        return PairedFiles(
            pair_by_stem(self.root / split, self.root / f"{split}annot", layout),
            self.class_names,
            self.void_ids,
            resize=self.resize(),
            augment=self.augmentation if split == "train" else None,
            cache=self.cache,
            check=self.check,
        )

    def test_split(self) -> Split:
        """``test``, or ``val`` where there is no ``test`` folder."""
        return "test" if (self.root / "test").is_dir() else "val"
