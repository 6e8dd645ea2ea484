"""Scores of a model with a detector in front of it, which rejects whole images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustseg.evaluation.figures import number
from robustseg.metrics import miou_from_counts, pixel_acc_from_counts
from robustseg.metrics.counts import check_counts


def has_valid_pixels(counts: Tensor) -> Tensor:
    """Mark the images that can be scored, N bool; the others are not attacked, and left out of all figures.

    Args:
        counts: N×3×C, see :func:`~robustseg.metrics.class_counts`.
    """
    found: Tensor = counts[:, 1].sum(-1) > 0
    return found


def rejection_scores(counts: Tensor, rejected: Tensor, *, adversarial: bool) -> dict[str, Any]:
    """Compute the scores of a model with a detector in front of it, whose rejected images get no answer.

    ``with_rejection`` transfers the risk of a classifier with a detector (Tramèr, ICML 2022, "Detecting Adversarial
    Examples Is (Nearly) As Hard As Classifying Them") to segmentation. There, an adversarial image is an error only if
    it is accepted *and* misclassified, while a clean image has to be accepted and classified correctly. Here a detector
    rejects whole images, and single pixels are right or wrong:

    * all valid pixels of a rejected adversarial image count as right,
    * all valid pixels of a rejected clean image count as wrong,
    * those of an accepted image count by their prediction.

    A detector that rejects everything has 1 under each attack and 0 on clean images, so both must be reported. miou has
    no such form, since a pixel without an answer has no predicted class. Tramèr's risk joins the clean and the
    adversarial version of an image in one event; for pixels this needs more than counts, and is not computed.

    Args:
        counts: N×3×C int64, see :func:`~robustseg.metrics.class_counts`, for the model's answers to all images.
        rejected: N bool, True for images that the detector rejects.
        adversarial: True for adversarial images, False for clean ones.

    Returns:
        Plain JSON. ``rejected``: the share of rejected images. ``accepted``: ``images``, the number of accepted images,
        with their ``pixel_acc`` and ``miou``. ``with_rejection``: ``pixel_acc``, see above. A figure over no image is
        None. Images without valid pixels are left out everywhere.

    Raises:
        ValueError: The shapes are others, or ``rejected`` is not bool.
    """
    check_counts(counts, "N")
    if rejected.dtype != torch.bool or rejected.shape != counts.shape[:1]:
        raise ValueError(
            f"rejected is {rejected.dtype} {list(rejected.shape)} for the counts of {len(counts)} images: give a bool "
            "for each."
        )
    scored = has_valid_pixels(counts)
    counts, rejected = counts[scored].cpu(), rejected[scored].cpu()
    passed = counts[~rejected]
    right, valid = counts[:, 0].sum(-1), counts[:, 1].sum(-1)
    counted = torch.where(rejected, valid if adversarial else torch.zeros_like(valid), right)
    return {
        "rejected": number(rejected.double().mean()),
        "accepted": {
            "images": len(passed),
            "pixel_acc": number(pixel_acc_from_counts(passed.sum(0))),
            "miou": number(miou_from_counts(passed.sum(0))),
        },
        "with_rejection": {"pixel_acc": number(counted.sum().double() / valid.sum())},
    }
