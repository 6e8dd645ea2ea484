"""CamVid with the 11 classes of SegNet."""

from __future__ import annotations

from typing import Any, ClassVar

from robustseg.data.base import Split
from robustseg.data.facts.camvid import CAMVID
from robustseg.data.file_data import FileData
from robustseg.data.files import Check
from robustseg.data.folders import is_folder
from robustseg.data.masks import RGB
from robustseg.data.pairing import FilePair, pair_by_stem
from robustseg.types import IGNORE_INDEX


class CamVid(FileData):
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
        check: Check before training: ``"all"`` decodes every file once, which takes seconds, ``"headers"`` finds
            missing, unreadable and ill-sized files only, ``"none"`` checks nothing in advance.
        **common: See ``FileData``. With ``cache`` the training split takes 254 MB and the validation
            split 70 MB at full size, in every worker process.

    Raises:
        ValueError: An argument is outside its range; the message names it.
    """

    classes: ClassVar[tuple[tuple[str, RGB], ...]] = CAMVID.classes
    layout: ClassVar[tuple[str, ...]] = CAMVID.layout
    void_ids: ClassVar[tuple[int, ...]] = (11, IGNORE_INDEX)
    void_colours: ClassVar[tuple[RGB, ...]] = ((0, 0, 0),)

    def __init__(
        self,
        root: str,
        image_size: tuple[int, int] | None = (360, 480),
        check: Check = "all",
        **common: Any,
    ) -> None:
        super().__init__(root, image_size=image_size, check=check, **common)

    def pairs(self, split: Split) -> list[FilePair]:
        """Return the files of a split, in order.

        Raises:
            DataError: Folders or files are missing.
        """
        return pair_by_stem(self.root / split, self.root / f"{split}annot", self.layout_here)

    def test_split(self) -> Split:
        """Return ``test``, or ``val`` without a ``test`` folder."""
        return "test" if is_folder(self.root / "test") else "val"
