"""Weights of the classes in the loss of an update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from robustseg.attacks.losses.masked import BalancedMaskedCrossEntropy
from robustseg.data import SegmentationData
from robustseg.training.split import TrainingError

ClassWeights = Literal["inverse", "log"]
"""Rule that makes weights of the pixels N_y of each class in the training split."""


def check_class_weights(given: ClassWeights | Sequence[float] | None, num_classes: int) -> None:
    """Refuse a setting that gives no weights.

    Args:
        given: A rule, a weight for each class, or None.
        num_classes: Number of classes C.

    Raises:
        ValueError: The rule is unknown, or the numbers are not C weights of 0 or more.
    """
    if given is None or given in get_args(ClassWeights):
        return
    if isinstance(given, str):
        raise ValueError(f"class_weights = {given!r}: use inverse, log, null, or a weight for each class.")
    if len(given) != num_classes:
        raise ValueError(
            f"class_weights = {list(given)}: {len(given)} numbers for {num_classes} classes: give one for each."
        )
    if not all(0 <= weight < math.inf for weight in given) or not any(given):
        raise ValueError(f"class_weights = {list(given)}: use numbers of 0 or more, not all 0.")


def class_weights(
    given: ClassWeights | Sequence[float] | None, data: object, device: torch.device, void: bool = False
) -> Tensor | None:
    """Return the weight of each class, C values, or None if all weigh the same.

    With N_y the pixels of class y and p_y its share, ``"inverse"`` is 1/N_y, scaled to a mean of 1 over the classes
    that occur; one that does not gets the weight of the rarest. ``"log"`` is 1/ln(1.02 + p_y), from 1.4 to 50 (Paszke
    et al., ENet, 2016).

    Args:
        given: A rule, a weight for each class, or None.
        data: The data set; a rule counts the pixels of its training split.
        device: Device of the result.
        void: The model has one class more than the data, void, which no pixel has.

    Raises:
        TrainingError: A rule is given, and the data is none of this package or has no valid pixel.
    """
    if given is None:
        return None
    if not isinstance(given, str):
        return torch.tensor(given, dtype=torch.float32, device=device)
    if not isinstance(data, SegmentationData):
        raise TrainingError(
            f"class_weights = {given}: only a data set of this package counts its classes: give a weight for each."
        )
    counts = [*data.class_pixels(), *[0] * void]
    if not any(counts):
        raise TrainingError(f"class_weights = {given}: no pixel of the training split has a class: check the masks.")
    if given == "inverse":
        return torch.tensor(BalancedMaskedCrossEntropy(tuple(counts)).weights, device=device)
    return torch.tensor([1 / math.log(1.02 + count / sum(counts)) for count in counts], device=device)
