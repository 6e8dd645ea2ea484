"""What an attack did to each image: the size of its perturbation, what it fooled, and what that cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from robustseg.attacks import AttackResult
from robustseg.metrics import target_success
from robustseg.types import IGNORE_INDEX

FOOLED = 0.99
"""Share of the valid pixels that must be wrong for an image to count as fooled; that of the minimum-norm papers."""


class AttackRecord(Metric):
    """Per-image figures of one attack; a few numbers per image are kept, and gathered from all ranks.

    Args:
        ignore_index: Label of pixels that are not counted.
        fooled: Share of the valid pixels that must be wrong for an image to count as fooled.
    """

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, ignore_index: int = IGNORE_INDEX, fooled: float = FOOLED, **kwargs: Any):
        super().__init__(**kwargs)
        self.ignore_index = ignore_index
        self.fooled = fooled
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(
        self,
        result: AttackResult,
        images: Tensor,
        predictions: Tensor,
        targets: Tensor,
        seconds: float,
        wanted: Tensor | None = None,
    ) -> None:
        """Take in a batch.

        Args:
            result: Of the attack.
            images: B×3×H×W, the clean images.
            predictions: B×H×W, on the adversarial ones.
            targets: B×H×W.
            seconds: What the attack took for the batch.
            wanted: B×H×W, what a targeted attack wanted the model to show.
        """
        valid = targets != self.ignore_index
        wrong = (valid & (predictions != targets)).flatten(1).sum(1) / valid.flatten(1).sum(1)
        nothing = torch.full((len(images),), float("nan"))
        delta = (result.images_adv.double() - images.double()).flatten(1)
        columns = (
            delta.abs().amax(1),
            delta.norm(dim=1),
            wrong,
            result.forwards,
            result.backwards,
            torch.full((len(images),), seconds / len(images)),
            nothing if wanted is None else target_success(predictions, wanted, targets, self.ignore_index),
        )
        self.rows.append(torch.stack([column.to(device=images.device, dtype=torch.float64) for column in columns], 1))

    def compute(self) -> dict[str, Tensor]:
        """Over all images:

        ``forwards``, ``backwards`` and ``seconds`` per image; ``without_valid_pixels``, the number of images that were
        not attacked; ``target_success``, the mean over the images of the share of pixels that show the target, of those
        whose true label is another (NaN for attacks without a target map); ``fooled_share``, the share of the attacked
        images with at least ``fooled`` of their valid pixels wrong; and over these ``fooled_linf`` and ``fooled_l2``,
        the median size of the perturbation (NaN without any), in units of the [0, 1] pixel range.
        """
        rows = dim_zero_cat(self.rows)
        linf, l2, wrong, forwards, backwards, seconds, shown = rows.unbind(1)
        # NaN without valid pixels.
        valid = wrong.isfinite()
        fooled = wrong >= self.fooled - 1e-9
        return {
            "forwards": forwards.mean(),
            "backwards": backwards.mean(),
            "seconds": seconds.mean(),
            "without_valid_pixels": (~valid).sum(),
            "target_success": shown.nanmean(),
            "fooled_share": fooled.sum() / valid.sum(),
            "fooled_linf": _median(linf[fooled]),
            "fooled_l2": _median(l2[fooled]),
        }


def _median(values: Tensor) -> Tensor:
    """The middle one, or the mean of the two in the middle."""
    return values.quantile(0.5) if len(values) else values.new_full((), float("nan"))
