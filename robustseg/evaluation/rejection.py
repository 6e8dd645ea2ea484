"""Scores of a model with a detector in front of it, which rejects whole images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustseg.evaluation.figures import number
from robustseg.metrics import miou_from_counts, pixel_acc_from_counts
from robustseg.metrics.counts import check_counts


def has_valid_pixels(counts: Tensor) -> Tensor:
    """Which images can be scored, N bool; the others are not attacked either, so that no figure is about them.

    Args:
        counts: N×3×C, of :func:`~robustseg.metrics.class_counts`.
    """
    found: Tensor = counts[:, 1].sum(-1) > 0
    return found


def rejection_scores(counts: Tensor, rejected: Tensor, *, adversarial: bool) -> dict[str, Any]:
    """What is left of a model's errors, and of its answers, if the images that a detector rejects get no answer.

    ``with_rejection`` carries over what Tramèr (ICML 2022, "Detecting Adversarial Examples Is (Nearly) As Hard As
    Classifying Them") counts for a classifier with a detector: an adversarial image is an error only if it is accepted
    *and* misclassified, while a clean image has to be accepted and classified. Here a detector rejects an image as a
    whole, and what is right or wrong are its pixels:

    * all valid pixels of a rejected adversarial image count as right,
    * all valid pixels of a rejected clean image count as wrong,
    * those of an accepted image count by their prediction.

    A detector that rejects everything has 1 under each attack and 0 on clean images: the two belong together. miou has
    no such form, since a pixel without an answer is of no predicted class. Tramèr's risk joins both, the clean and the
    adversarial version of an image, in one event; for pixels that takes more than counts, and is not computed.

    Args:
        counts: N×3×C int64, of :func:`~robustseg.metrics.class_counts`: of the model's answers to all images.
        rejected: N bool.
        adversarial: Whether the images are adversarial; else they are clean.

    Returns:
        Plain JSON. ``rejected``, the share of the images; ``accepted``: ``images``, the number of those that were let
        through, and their ``pixel_acc`` and ``miou``; ``with_rejection``: ``pixel_acc``, see above. None for a figure
        of no image. Images without valid pixels are left out of all.

    Raises:
        ValueError: Other shapes, or ``rejected`` is not bool.
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
