"""Targets of an evaluation: the labels of the data, or the model's own predictions on the clean images.

With predictions nobody has to know what is in the images. The figures then say how much of the model's own clean answer
an attack leaves, and nothing about whether that answer was right: a model that always says the same is robust and
useless. Every pixel counts, since only labels could say which ones to ignore.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor

from robustseg.attacks.guard import Model
from robustseg.evaluation.attacking import predict

TargetKind = Literal["labels", "predictions"]
OWN = "the model's own clean predictions"
"""Name of the targets ``predictions`` in tables and reports."""
BY_CONSTRUCTION = (
    "Targets are the model's own predictions on the clean images, not labels: the figures say how much of its clean "
    "answer is left under attack, and nothing about whether that answer is right. Clean figures are 100 by "
    "construction; every pixel counts."
)
"""Explanation of such figures."""


def check_targets(targets: object, labelled: bool = True) -> TargetKind:
    """Return the kind of targets.

    Args:
        targets: The setting ``robustness.targets``.
        labelled: True if the data have labels.

    Raises:
        ValueError: It is not one of :data:`TargetKind`, or the data have no labels and these are the targets.
    """
    if targets not in get_args(TargetKind):
        raise ValueError(
            f"robustness.targets = {targets!r}: choose one of labels and predictions; figures against the two say "
            "different things and have an evaluation each."
        )
    if targets == "labels" and not labelled:
        raise ValueError(
            "robustness.targets = labels, but the data have no masks: give them masks (data.mask_folder), or set "
            "robustness.targets to predictions, which measures how much of the model's own clean answer is left."
        )
    return targets  # type: ignore[return-value]


def refuse_ignored_classes(ignored: Iterable[int | None], num_classes: int) -> None:
    """Refuse ignored labels that the model could predict, since these pixels would silently not count.

    Args:
        ignored: The ignore index of the data and those of the attacks.
        num_classes: Number of classes C.

    Raises:
        ValueError: One is a class.
    """
    for label in ignored:
        if label is not None and 0 <= label < num_classes:
            raise ValueError(
                f"robustness.targets = predictions counts every pixel, but ignore_index = {label} is one of the "
                f"{num_classes} classes that the model predicts: set the ignore_index of the data and of the attacks "
                "to a label that is no class, such as 255."
            )


def refuse_other_ignore_index(name: str, ignored: int | None, of_data: int | None) -> None:
    """Refuse an attack that spares other pixels than those that do not count: it would look weaker than it is.

    Args:
        name: Name of the attack.
        ignored: Its ignore index.
        of_data: Ignore index of the data.

    Raises:
        ValueError: They differ.
    """
    if ignored != of_data:
        raise ValueError(
            f"robustness.attacks.{name}: ignore_index = {ignored}, but the data ignore {of_data}: leave it out, or "
            "give that of the data."
        )


def own_predictions(model: Model, images: Tensor) -> Tensor:
    """Predict class ids B×H×W for clean images B×3×H×W, in full precision with the model in eval mode.

    Raises:
        AttackError: The model's output is not logits of the images' size, or not finite.
    """
    nothing = torch.zeros(len(images), *images.shape[-2:], dtype=torch.long, device=images.device)
    return predict(model, images, nothing)
