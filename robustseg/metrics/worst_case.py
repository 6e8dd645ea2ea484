"""Worst cases over several attacks, from one confusion matrix per (attack, image).

Every function takes A×N×C×C counts: rows of a matrix are true classes, columns predicted ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustseg.metrics.functional import miou, pixel_acc


class WorstCase(NamedTuple):
    """A choice of one attack per image and the data set's confusion matrix under it."""

    attack: Tensor
    """N indices of attacks."""
    confusion: Tensor
    """C×C int64."""


def worst_case_images(confusions: Tensor) -> WorstCase:
    """For each image the attack that leaves the lowest pixel accuracy, the first of equals.

    Args:
        confusions: A×N×C×C int64. An image without valid pixels takes the first attack.

    Raises:
        ValueError: Another shape, or no attack.
    """
    _check(confusions)
    attack = pixel_acc(confusions).nan_to_num(2.0).argmin(0)
    return WorstCase(attack, _chosen(confusions, attack).sum(0))


def greedy_worst_case(confusions: Tensor, seed: int = 0) -> WorstCase:
    """A choice of attacks under which the data set's mIoU is low (Croce, Singh & Hein, ECCV 2024, Sec. 3.3).

    Starts from the single attack with the lowest mIoU, visits the images in random order, gives each the attack that
    lowers the data set's mIoU most, if any does, and repeats until a round changes nothing. mIoU does not decompose
    over images, so that the result is a local minimum: an upper bound of the worst case.

    Args:
        confusions: A×N×C×C int64.
        seed: Of the order of the images.

    Raises:
        ValueError: Another shape, or no attack.
    """
    _check(confusions)
    generator = torch.Generator().manual_seed(seed)
    count = confusions.shape[1]
    attack = torch.full((count,), int(miou(confusions.sum(1)).nan_to_num(2.0).argmin()))
    total = _chosen(confusions, attack).sum(0)
    lowest = float(miou(total))
    changed = True
    while changed:
        changed = False
        for image in torch.randperm(count, generator=generator).tolist():
            candidates = total - confusions[attack[image], image] + confusions[:, image]
            figures = miou(candidates)
            best = int(figures.nan_to_num(2.0).argmin())
            # Strictly: ties would let two attacks take turns for ever.
            if float(figures[best]) < lowest:
                attack[image], total, lowest, changed = best, candidates[best], float(figures[best]), True
    return WorstCase(attack, total)


def _chosen(confusions: Tensor, attack: Tensor) -> Tensor:
    return confusions[attack, torch.arange(confusions.shape[1], device=attack.device)]


def _check(confusions: Tensor) -> None:
    if confusions.ndim != 4 or confusions.shape[2] != confusions.shape[3] or not len(confusions):
        raise ValueError(f"confusions of shape {tuple(confusions.shape)}: use A×N×C×C counts of at least one attack.")
