"""Target maps from labels: a given picture, or another scene of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from robustseg.attacks.errors import AttackError
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.targets.label_files import label_files, read_labels
from robustseg.attacks.targets.maps import TargetMap
from robustseg.devices import on_device
from robustseg.types import IGNORE_INDEX, ignored_pixels


class LabelImage(TargetMap):
    """The labels of a picture file, the same for every image.

    Args:
        path: Picture with one class id per pixel, as large as the images.
        num_classes: C; ids beyond it are refused. By default only the attacked model refuses them.
        ignore_index: Id in the file of pixels without a wanted class.
        keep_ignored: See :class:`TargetMap`.

    Raises:
        ValueError: The file cannot be read as labels, or holds other classes.
    """

    def __init__(
        self,
        path: str | Path,
        num_classes: int | None = None,
        ignore_index: int | None = IGNORE_INDEX,
        keep_ignored: bool = True,
    ):
        super().__init__(keep_ignored)
        self.path = str(path)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._labels = read_labels(path, num_classes, ignore_index)

    def draw(self, targets: Tensor, ids: Sequence[str] | None) -> Tensor:  # noqa: D102
        _check_size(self.path, self._labels, targets)
        return on_device(self._labels, targets.device)


class Scene(TargetMap):
    """The labels of another scene, chosen for each image from a given set and never its own.

    The choice is a stable hash of the seed and of the sample id. Without ids, as within an
    :class:`~robustseg.attacks.Attack`, the image's targets replace the id, and two images with equal targets get the
    same scene. Scenes equal to the image's own labels are skipped. Files are read on demand.

    Args:
        source: Picture file of labels or a folder of them (PNG), all as large as the images; or a sequence of H×W
            label tensors or of samples with a ``target``, such as a data set.
        num_classes: C; ids beyond it are refused. By default only the attacked model refuses them.
        ignore_index: Label in the source of pixels without a wanted class.
        seed: Seed of the choice.
        keep_ignored: See :class:`TargetMap`.

    Raises:
        ValueError: The source is empty, or the files are not there.
    """

    def __init__(
        self,
        source: str | Path | Sequence[object],
        num_classes: int | None = None,
        ignore_index: int | None = IGNORE_INDEX,
        seed: int = 0,
        keep_ignored: bool = True,
    ):
        super().__init__(keep_ignored)
        self._scenes: Sequence[object] = label_files(source) if isinstance(source, (str, Path)) else source
        if not len(self._scenes):
            raise ValueError("source = []: there is no scene to choose.")
        self.source = str(source) if isinstance(source, (str, Path)) else f"{len(source)} scenes"
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.seed = seed

    def draw(self, targets: Tensor, ids: Sequence[str] | None) -> Tensor:  # noqa: D102
        if ids is not None and len(ids) != len(targets):
            raise AttackError(f"{len(ids)} ids were given with {len(targets)} targets: give one per image.")
        return torch.stack([self._choose(true, ids[row] if ids else None) for row, true in enumerate(targets)])

    def _choose(self, true: Tensor, sample: str | None) -> Tensor:
        content = sample.encode() if sample is not None else _content(true)
        digest = hashlib.blake2b(content, digest_size=8, salt=self.seed.to_bytes(8, "big")).digest()
        first = int.from_bytes(digest, "big") % len(self._scenes)
        for number in range(len(self._scenes)):
            labels = on_device(self._labels((first + number) % len(self._scenes), true), true.device)
            differs = (labels != true) & (labels != IGNORED)
            if bool((differs & (true != IGNORED)).any()) or not bool((true != IGNORED).any()):
                return labels
        raise AttackError(f"source = {self.source} holds nothing but an image's own labels: add other scenes.")

    def _labels(self, index: int, true: Tensor) -> Tensor:
        scene = self._scenes[index]
        if isinstance(scene, Path):
            labels = read_labels(scene, self.num_classes, self.ignore_index)
        else:
            found: object = scene if isinstance(scene, Tensor) else getattr(scene, "target", None)
            if not isinstance(found, Tensor) or found.ndim != 2 or found.is_floating_point():
                raise AttackError(f"scene {index} is no H×W tensor of labels and no sample that has one as its target.")
            labels = found.long().masked_fill(ignored_pixels(found, self.ignore_index), IGNORED)
        _check_size(str(scene) if isinstance(scene, Path) else f"scene {index}", labels, true)
        return labels


def _check_size(name: str, labels: Tensor, targets: Tensor) -> None:
    """Refuse labels of another size than the images."""
    (height, width), (own_height, own_width) = targets.shape[-2:], labels.shape
    if (height, width) != (own_height, own_width):
        raise AttackError(
            f"{name} has {own_width}x{own_height} pixels (width x height) but the images have {width}x{height}: resize "
            "the labels by nearest neighbour, or the images (data.image_size)."
        )


def _content(targets: Tensor) -> bytes:
    size = ",".join(map(str, targets.shape)).encode()
    return size + targets.to("cpu", torch.int32).contiguous().numpy().tobytes()
