"""Spatial consistency: agreement of overlapping patches' predictions on their overlap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks.guard import Model
from robustseg.attacks.noise import NoiseSource
from robustseg.detectors.detector import LEFT_OUT, Detector
from robustseg.detectors.errors import DetectorError
from robustseg.detectors.patches import PairSampler, PatchPair, predicted_patches
from robustseg.metrics.functional import confusion_matrix, miou

_PIXELS_AT_ONCE = 2**20
"""Most pixels of overlaps that are compared together: about 65 MB."""


class SpatialConsistency(Detector):
    """The mean mIoU of the predictions for pairs of overlapping patches, where they overlap.

    Source: Xiao et al., ECCV 2018, Algorithm 1. We follow its intent, not its letter: the indices of its overlap are
    one pixel short, and its list of scores is overwritten. Each patch is predicted as an image of its own. A pair's
    mIoU is over the classes that either patch shows in the overlap. (Sec. 3.2 says "appearing in both", which would
    leave out the classes that the patches disagree on.)

    Scoring an image costs the forwards of 2·``k`` patches, in as few batches as ``patches_per_forward`` allows.

    Args:
        patch_size: Side of the patches in pixels; [smallest, largest] to draw a side for each pair. The paper uses 512,
            and 384 to 512, for images of 2048×1024.
        k: Number of pairs per image; 1, 5, 10 and 50 in the paper.
        displacement: [smallest, largest] displacement of the second patch in each direction, in pixels; [32, 64] in
            the paper, ends included here.
        patches_per_forward: Most patches in one forward; null for all of the batch, halved each time that the GPU runs
            out of memory.
        seed: Seed of the patches, in addition to the run's.

    Raises:
        DetectorError: ``k`` or ``patches_per_forward`` is below 1, a size is not positive, the displacement is negative
            or always 0, or the patches would not overlap.
    """

    def __init__(
        self,
        patch_size: int | tuple[int, int] = 512,
        k: int = 50,
        displacement: tuple[int, int] = (32, 64),
        patches_per_forward: int | None = None,
        seed: int = 0,
    ):
        super().__init__(seed)
        sizes = (patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
        if k < 1:
            raise DetectorError(f"k = {k}: at least one pair of patches is compared.")
        if len(sizes) != 2 or not 1 <= sizes[0] <= sizes[1]:
            raise DetectorError(f"patch_size = {patch_size}: a side in pixels, or [smallest, largest], expected.")
        if len(displacement) != 2 or not 0 <= displacement[0] <= displacement[1]:
            raise DetectorError(f"displacement = {displacement}: [smallest, largest] in pixels expected, not negative.")
        if displacement[1] == 0:
            raise DetectorError(
                f"displacement = {list(displacement)} compares each patch with itself: set it to [0, 1], say."
            )
        if displacement[1] >= sizes[0]:
            raise DetectorError(
                f"displacement = {list(displacement)} leaves patches of {sizes[0]} pixels without overlap: set it to "
                f"less than patch_size."
            )
        if patches_per_forward is not None and patches_per_forward < 1:
            raise DetectorError(f"patches_per_forward = {patches_per_forward}: at least one, or null, expected.")
        self.k = k
        self.sampler = PairSampler(k, (sizes[0], sizes[1]), (displacement[0], displacement[1]))
        self.patches_per_forward = patches_per_forward

    def consistency(  # noqa: D102
        self, model: Model, images: Tensor, noise: NoiseSource, ignored: Tensor | None
    ) -> Tensor:
        pairs = self.sampler.draw(noise, images)
        agreement = self.agreement(model, images, pairs, ignored)
        return agreement.view(len(images), self.k)

    def check(self, height: int, width: int) -> None:  # noqa: D102
        self.sampler.check(height, width)

    def agreement(self, model: Model, images: Tensor, pairs: Sequence[PatchPair], ignored: Tensor | None) -> Tensor:
        """Compute the mIoU of each pair on its overlap.

        Args:
            model: The model, see :meth:`~robustseg.detectors.detector.Detector.scores`.
            images: B×3×H×W.
            pairs: N pairs.
            ignored: B×H×W bool, pixels that are left out, or None.

        Returns:
            N float64 in [0, 1] on the CPU, NaN for a pair with an ignored overlap.
        """
        overlaps, classes = self._overlaps(model, images, pairs)
        side = max(pair.size for pair in pairs)
        at_once = max(1, _PIXELS_AT_ONCE // side**2)
        found = []
        for start in range(0, len(pairs), at_once):
            shown = _side_by_side(overlaps[start : start + at_once])
            if ignored is not None:
                _leave_out(shown[1], pairs[start : start + at_once], ignored)
            found.append(miou(confusion_matrix(shown[0], shown[1], classes, LEFT_OUT)))
        return torch.cat(found).cpu()

    def _overlaps(
        self, model: Model, images: Tensor, pairs: Sequence[PatchPair]
    ) -> tuple[list[tuple[Tensor, Tensor]], int]:
        """Predict both patches of each pair on their overlap: N pairs of h×w class ids, and the number of classes C."""
        of_size: dict[int, list[int]] = defaultdict(list)
        for index, pair in enumerate(pairs):
            of_size[pair.size].append(index)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        classes = 0
        for size, indices in of_size.items():
            places = [(pairs[i].image, *corner, size) for i in indices for corner in pairs[i].corners]
            shown: list[Tensor] = []
            for predicted, found_classes in predicted_patches(model, images, places, self.patches_per_forward):
                shown += [*predicted]
                classes = found_classes
            for index, first, second in zip(indices, shown[::2], shown[1::2], strict=True):
                down, right = pairs[index].down, pairs[index].right
                found[index] = first[down:, right:], second[: size - down, : size - right]
        return [found[index] for index in range(len(pairs))], classes

    def describe(self) -> dict[str, Any]:  # noqa: D102
        smallest, largest = self.sampler.sizes
        return {
            "detector": type(self).__name__,
            "patch_size": smallest if smallest == largest else [smallest, largest],
            "k": self.k,
            "displacement": list(self.sampler.displacement),
            "seed": self.seed,
        }


def _side_by_side(overlaps: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Stack overlaps of at most H×W pixels as 2×n×H×W class ids; pixels beyond an overlap are ignored in the second."""
    height, width = (max(first.shape[axis] for first, _ in overlaps) for axis in (0, 1))
    shown = overlaps[0][0].new_zeros(2, len(overlaps), height, width)
    shown[1] = LEFT_OUT
    for number, pair in enumerate(overlaps):
        for frame, ids in zip(shown[:, number], pair, strict=True):
            frame[: ids.shape[0], : ids.shape[1]] = ids
    return shown


def _leave_out(shown: Tensor, pairs: Sequence[PatchPair], ignored: Tensor) -> None:
    """Mark the image's ignored pixels in n×H×W class ids of overlaps, in place."""
    for frame, pair in zip(shown, pairs, strict=True):
        hidden = ignored[pair.image][pair.overlap]
        frame[: hidden.shape[0], : hidden.shape[1]].masked_fill_(hidden, LEFT_OUT)
