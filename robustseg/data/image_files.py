"""Image files without masks, on which models are evaluated without ground truth."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from robustseg.data.dataset import SegmentationDataset
from robustseg.data.disk_cache import file_fingerprint
from robustseg.data.files import Check
from robustseg.data.pictures import EXACT, ImageForm, check_forms, check_image, decode_image, open_picture
from robustseg.data.transforms import EvalTransform, Pixels, TrainTransform
from robustseg.types import IGNORE_INDEX


class ImageFiles(SegmentationDataset):
    """Image files by id, with a mask of void for each.

    Args:
        files: Paths by id, in order.
        resize: Applied to every sample, before the cache.
        augment: Applied anew to each fetched sample.
        cache: Keep decoded and resized samples in memory, per process.
        check: ``"headers"`` opens every file at construction, ``"all"`` decodes it, ``"none"`` does neither.
        convert: Forms of images that are converted to RGB of 8 bits; other forms are refused.

    Raises:
        DataError: ``check`` found a file that cannot be used.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        resize: EvalTransform | None = None,
        augment: TrainTransform | None = None,
        cache: bool = False,
        check: Check = "headers",
        convert: Collection[ImageForm] = EXACT,
    ) -> None:
        super().__init__(resize, augment, cache)
        self.convert = check_forms(convert)
        self.files = list(files.items())
        for index, (_, path) in enumerate(self.files if check != "none" else []):
            with open_picture(path) as picture:
                check_image(picture, path, True, self.convert)
            if check == "all":
                self.read(index)

    def __len__(self) -> int:
        return len(self.files)

    def sample_id(self, index: int) -> str:
        """Return the relative path of a file without its suffix."""
        return self.files[index][0]

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Decode an image; its mask is void.

        Raises:
            DataError: The file is truncated or cannot be used.
        """
        image = decode_image(self.files[index][1], True, self.convert).astype(np.uint8, copy=False)
        return image, np.full(image.shape[:2], IGNORE_INDEX, np.uint8)

    def fingerprint(self, index: int) -> str:
        """Return a fingerprint of the file."""
        return repr((file_fingerprint(self.files[index][1]), type(self).__qualname__, self.convert))
