"""Spatial consistency: do overlapping patches agree on what they share?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks.noise import NoiseSource
from robustseg.detectors.detector import Detector, Model, predictions_of
from robustseg.detectors.errors import DetectorError
from robustseg.detectors.patches import PairSampler, PatchPair, cut
from robustseg.metrics.functional import confusion_matrix, miou
from robustseg.types import IGNORE_INDEX


class SpatialConsistency(Detector):
    """Mean miou of what pairs of overlapping patches are predicted to show where they overlap.

    Source: Xiao et al., ECCV 2018, Algorithm 1, of which we take the intent: the indices of its overlap are one pixel
    short, and its list of scores is overwritten. Each patch is predicted on its own, as if it were an image. The
    classes of a pair's miou are those that either patch shows in the overlap. ("Appearing in both", as Sec. 3.2 has
    it, would leave out just the classes that the patches disagree on.)

    Scoring an image costs the forwards of 2·``k`` patches, in as few batches as ``patches_per_forward`` allows.

    Args:
        patch_size: Side of the patches in pixels; [smallest, largest] for sides that are drawn for each pair. 512 in
            the paper, and 384 to 512, for images of 2048×1024.
        k: Pairs of an image; 1, 5, 10 and 50 in the paper.
        displacement: [smallest, largest] displacement of the second patch in each direction, in pixels; [32, 64] in
            the paper, ends included here.
        patches_per_forward: Most patches in one forward; null for all of the batch, and half as many each time that
            the GPU's memory does not do.
        seed: Of the patches, beside the run's.

    Raises:
        DetectorError: ``k`` or ``patches_per_forward`` is below 1, a size or a displacement is not positive, or the
            patches would not overlap.
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
        return agreement.view(len(images), self.k).nanmean(1)

    def agreement(self, model: Model, images: Tensor, pairs: Sequence[PatchPair], ignored: Tensor | None) -> Tensor:
        """Miou of each pair on its overlap.

        Args:
            model: As in :meth:`~robustseg.detectors.detector.Detector.scores`.
            images: B×3×H×W.
            pairs: N pairs.
            ignored: B×H×W bool, or None.

        Returns:
            N float64 on the CPU, NaN for a pair whose overlap is ignored.
        """
        found = torch.full((len(pairs),), float("nan"), dtype=torch.float64)
        of_size: dict[int, list[int]] = defaultdict(list)
        for index, pair in enumerate(pairs):
            of_size[pair.size].append(index)
        for size, indices in of_size.items():
            places = [(pairs[i].image, *corner, size) for i in indices for corner in pairs[i].corners]
            shown, classes = self._predict(model, images, places)
            left_out = None if ignored is None else cut(ignored, places[::2])
            for number, index in enumerate(indices):
                pair = pairs[index]
                first = shown[2 * number, pair.down :, pair.right :]
                second = shown[2 * number + 1, : size - pair.down, : size - pair.right]
                if left_out is not None:
                    second = second.masked_fill(left_out[number, pair.down :, pair.right :], IGNORE_INDEX)
                found[index] = miou(confusion_matrix(first[None], second[None], classes))[0].item()
        return found

    def _predict(self, model: Model, images: Tensor, places: Sequence[tuple[int, int, int, int]]) -> tuple[Tensor, int]:
        """N×s×s class ids of the patches at ``places``, and C."""
        at_once = self.patches_per_forward or len(places)
        shown: list[Tensor] = []
        classes = start = 0
        while start < len(places):
            try:
                predicted, classes = predictions_of(model, cut(images, places[start : start + at_once]))
            except torch.OutOfMemoryError:
                if at_once == 1 or self.patches_per_forward is not None:
                    raise
                at_once = -(-at_once // 2)
                continue
            shown.append(predicted)
            start += at_once
        return torch.cat(shown), classes

    def describe(self) -> dict[str, Any]:  # noqa: D102
        smallest, largest = self.sampler.sizes
        return {
            "detector": type(self).__name__,
            "patch_size": smallest if smallest == largest else [smallest, largest],
            "k": self.k,
            "displacement": list(self.sampler.displacement),
            "seed": self.seed,
        }
