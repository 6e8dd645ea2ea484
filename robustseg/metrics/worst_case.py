"""Worst cases over several attacks, from the class counts of every image under every attack.

Every function takes the counts of :func:`~robustseg.metrics.class_counts` as A×N×3×C: A attacks, N images, in the same
order under each attack.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustseg.metrics.counts import check_counts, miou_from_counts


class WorstCase(NamedTuple):
    """A choice of one attack per image and the data set's counts under it."""

    attack: Tensor
    """N indices of attacks."""
    counts: Tensor
    """3×C int64: true positives, true pixels, predicted pixels."""


def worst_case_images(counts: Tensor) -> WorstCase:
    """Choose for each image the attack that leaves the lowest pixel accuracy, the first of equals.

    Args:
        counts: A×N×3×C int64. An image without valid pixels takes the first attack.

    Raises:
        ValueError: The counts have another shape or no attack, or attacks differ in the true pixels of an image.
    """
    _check(counts)
    # An image has the same valid pixels under every attack, so its whole numbers are compared: ties are exact.
    attack = counts[:, :, 0].sum(-1).argmin(0)
    return WorstCase(attack, _chosen(counts, attack))


def greedy_worst_case(counts: Tensor, seed: int = 0) -> WorstCase:
    """Choose an attack per image such that the data set's mIoU is low (Croce, Singh & Hein, ECCV 2024, Sec. 3.3).

    Starts from the single attack with the lowest mIoU, visits the images in random order, gives each the attack that
    lowers the data set's mIoU most, if any does, and repeats until a round changes nothing. mIoU does not decompose
    over images: the result is a local minimum, and its mIoU an upper bound of the worst case's. It depends on the order
    of the images, which a caller keeps fixed by sorting their ids. It needs about twice the memory of the counts in
    addition.

    Args:
        counts: A×N×3×C int64.
        seed: Seed of the order of the images.

    Raises:
        ValueError: The counts have another shape or no attack, or attacks differ in the true pixels of an image.
    """
    _check(counts)
    generator = torch.Generator().manual_seed(seed)
    start = int(miou_from_counts(counts.sum(1)).nan_to_num(2.0).argmin())
    true_positives, true, predicted = counts.cpu().double().transpose(0, 1).unbind(2)
    # N×2×A×C intersections and unions: one block per image. float64 adds whole numbers exactly.
    parts = torch.stack([true_positives, true + predicted - true_positives], dim=1)
    chosen = [start] * len(parts)
    total = parts[:, :, start].sum(0)
    lowest = float(_miou(total))
    changed = True
    while changed:
        changed = False
        for image in torch.randperm(len(parts), generator=generator).tolist():
            others = total - parts[image, :, chosen[image]]
            candidates = parts[image] + others[:, None]
            figures = _miou(candidates)
            best = int(figures.argmin())
            # Strictly lower: with ties two attacks could take turns without end.
            if float(figures[best]) < lowest:
                chosen[image], total, lowest, changed = best, candidates[:, best], float(figures[best]), True
    attack = torch.tensor(chosen, dtype=torch.long)
    return WorstCase(attack, _chosen(counts, attack))


def _miou(parts: Tensor) -> Tensor:
    """Compute ``miou`` of 2×…×C intersections and unions, faster: a class with an empty union is not counted."""
    intersections, unions = parts.unbind()
    return (intersections / unions.clamp(min=1)).sum(-1) / (unions > 0).sum(-1)


def _chosen(counts: Tensor, attack: Tensor) -> Tensor:
    return counts[attack, torch.arange(counts.shape[1], device=attack.device)].sum(0)


def _check(counts: Tensor) -> None:
    check_counts(counts, "A×N")
    if not len(counts):
        raise ValueError(f"counts of shape {tuple(counts.shape)}: give at least one attack.")
    differs = (counts[:, :, 1] != counts[0, :, 1]).any(-1)
    if differs.any():
        attack, image = differs.nonzero()[0].tolist()
        raise ValueError(
            f"counts of attacks 0 and {attack} differ in the true pixels of image {image}: "
            "give the images of all attacks in the same order."
        )
