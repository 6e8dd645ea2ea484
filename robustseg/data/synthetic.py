"""Embedded data set of drawn scenes, without download or files."""

from __future__ import annotations

from typing import Any, ClassVar

from robustseg.data.base import SegmentationData, Split, _at_least
from robustseg.data.dataset import SegmentationDataset
from robustseg.data.facts.own import SYNTHETIC_SCENES
from robustseg.data.scenes import render_scene
from robustseg.data.transforms import Pixels, TrainTransform

SPLITS: tuple[Split, ...] = ("train", "val", "test")


class SceneDataset(SegmentationDataset):
    """Scenes of ``render_scene``; sample ``index`` of a split is always the same picture.

    Args:
        split: Name of the split; splits never share a scene.
        length: Number of scenes.
        size: (height, width) in pixels that scenes are drawn at.
        seed: Another seed gives another data set.
        augment: Applied anew to each fetched sample.
        cache: Keep the scenes in memory, per process: 4 bytes per pixel.
    """

    def __init__(
        self,
        split: Split,
        length: int,
        size: tuple[int, int] = (96, 96),
        seed: int = 0,
        augment: TrainTransform | None = None,
        cache: bool = True,
    ) -> None:
        super().__init__(augment=augment, cache=cache)
        self.split = split
        self.length = length
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def sample_id(self, index: int) -> str:
        """Return the id of a scene: ``val-000017`` is scene 17 of the validation split."""
        return f"{self.split}-{index:06d}"

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Draw a scene."""
        return render_scene((self.seed, SPLITS.index(self.split), index), self.size)


class SyntheticScenes(SegmentationData):
    """Toys on a textured floor, drawn from a seed: seven classes, for examples and tests without a download.

    See ``robustseg.data.scenes`` for the content of the scenes.

    Args:
        train_length: Number of training scenes.
        val_length: Number of validation scenes.
        test_length: Number of test scenes.
        seed: Seed of the scenes, independent of the seed of a run; another seed gives another data set.
        image_size: (height, width) in pixels that scenes are drawn at, 32 or more.
        num_workers: Number of data workers; drawing a scene takes milliseconds and happens once.
        scale: Range of the random factor that training images are resized by before the crop.
        cache: Keep the scenes in memory: 28 kB each at 96×96, in every worker process.
        **common: See ``SegmentationData``.

    Raises:
        ValueError: An argument is outside its range; the message names it.
    """

    classes: ClassVar[tuple[tuple[str, tuple[int, int, int]], ...]] = SYNTHETIC_SCENES.classes

    def __init__(
        self,
        train_length: int = 512,
        val_length: int = 64,
        test_length: int = 64,
        seed: int = 0,
        image_size: tuple[int, int] = (96, 96),
        num_workers: int = 0,
        scale: tuple[float, float] = (0.75, 1.5),
        cache: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(image_size=image_size, num_workers=num_workers, scale=scale, cache=cache, **common)
        if min(image_size) < 32:
            raise ValueError(f"image_size = {list(image_size)} is too small for a scene: set both to 32 or more.")
        self.size = image_size
        self.seed = _at_least("seed", seed, 0)
        self.lengths: dict[Split, int] = {
            "train": _at_least("train_length", train_length, 1),
            "val": _at_least("val_length", val_length, 1),
            "test": _at_least("test_length", test_length, 1),
        }

    def make_dataset(self, split: Split) -> SceneDataset:
        """Open a split without drawing any scene."""
        augment = self.augmentation if split == "train" else None
        return SceneDataset(split, self.lengths[split], self.size, self.seed, augment, self.cache)
