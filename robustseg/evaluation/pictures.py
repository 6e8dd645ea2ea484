"""Storage of an evaluation's best and worst images on disk while it runs, for the report's pictures."""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustseg.evaluation.panels import Example
from robustseg.files import remove_left_over, write_whole
from robustseg.opening.archives import read_arrays

PICTURES = "pictures"


class _Rank(NamedTuple):
    pixel_acc: float
    sample: str


class PictureKeeper:
    """A store of the images with the lowest and the highest pixel accuracy under each attack.

    A picture is written before the record of its image, and removed when more extreme images displace it. So the
    extremes are there at the end, however often the evaluation was interrupted, and never more than ``2 × count``
    pictures per attack and process.

    Args:
        folder: Folder of the evaluation.
        count: Number of worst images to keep, and of best images.
    """

    def __init__(self, folder: Path, count: int = 3):
        self._folder = folder / PICTURES
        self._count = count
        self._ranks: dict[str, list[_Rank]] = {}
        remove_left_over(self._folder)

    def remember(self, attack: str, sample: str, pixel_acc: float) -> None:
        """Count an image that was measured before; NaN, an image without valid pixels, is ignored."""
        if pixel_acc == pixel_acc:
            self._ranks[attack] = self._extremes([*self._ranks.get(attack, []), _Rank(pixel_acc, sample)])

    def wanted(self, attack: str, samples: list[str], pixel_accs: Tensor) -> list[int]:
        """Return the rows of those of B new images that are among the extremes so far, and need a picture.

        Args:
            attack: Name of the attack.
            samples: B sample ids.
            pixel_accs: B pixel accuracies under the attack, in [0, 1].
        """
        # read from the device once
        ranks = [_Rank(acc, sample) for acc, sample in zip(pixel_accs.tolist(), samples, strict=True)]
        new = [rank for rank in ranks if not math.isnan(rank[0])]
        extremes = set(self._extremes([*self._ranks.get(attack, []), *new]))
        return [row for row, rank in enumerate(ranks) if rank in extremes]

    def keep(self, attack: str, example: Example, pixel_acc: float) -> None:
        """Write the picture of a wanted image, and remove those that it displaces.

        Raises:
            OSError: The picture cannot be written.
        """
        before = self._ranks.get(attack, [])
        self.remember(attack, example.id, pixel_acc)
        _write(self._path(attack, example.id), example)
        for displaced in set(before) - set(self._ranks[attack]):
            self._path(attack, displaced.sample).unlink(missing_ok=True)

    def load(self, attack: str, sample: str) -> Example | None:
        """Load a picture; return None if it was not kept or cannot be read."""
        try:
            arrays = read_arrays(self._path(attack, sample))
            image = torch.from_numpy(arrays["image"]).float() / 255
            images = (image, image + torch.from_numpy(arrays["delta"]).float())
            maps = (torch.from_numpy(arrays[name].astype(np.int64)) for name in ("target", "clean", "adv"))
            return Example(sample, *images, *maps)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError):
            return None

    def _extremes(self, ranks: list[_Rank]) -> list[_Rank]:
        ordered = sorted(set(ranks))
        if len(ordered) <= 2 * self._count:
            return ordered
        return ordered[: self._count] + ordered[len(ordered) - self._count :]

    def _path(self, attack: str, sample: str) -> Path:
        # Names come from users and data sets, and may hold characters that are not allowed in file names.
        name = hashlib.sha256(f"{attack}\0{sample}".encode()).hexdigest()[:24]
        return self._folder / f"{name}.npz"


def _write(path: Path, example: Example) -> None:
    image = example.image.mul(255).round().clamp(0, 255).byte()
    # Half precision is exact to a tenth of an 8-bit level, which is enough for a picture.
    delta = (example.image_adv - image.to(example.image_adv.dtype) / 255).half()
    maps = {"target": example.target, "clean": example.prediction, "adv": example.prediction_adv}
    content = io.BytesIO()
    np.savez_compressed(
        content,
        allow_pickle=False,
        image=image.numpy(),
        delta=delta.numpy(),
        **{name: ids.to(torch.int32).numpy() for name, ids in maps.items()},
    )
    write_whole(content.getvalue(), path, durable=False)
