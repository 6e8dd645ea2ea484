"""The record in a checkpoint: plain numbers about the weights, for an evaluation to check against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from robustseg.attacks import Attack
from robustseg.models import RECORD_FORMAT, SegmentationModel


def validation_record(
    scores: Mapping[str, Tensor], model: SegmentationModel, data: object, precision: str
) -> dict[str, Any]:
    """Collect the clean scores of a validation and their conditions besides the weights.

    Args:
        scores: Result of :class:`~robustseg.metrics.SegmentationScores`.
        model: The validated model.
        data: The data set of the images, a data module that is not ours, or None.
        precision: The trainer's precision, for example ``"bf16-mixed"``: figures differ slightly with it.

    Returns:
        ``val`` with the figures, the number of images and the precision, and ``data`` with the name and split of the
        data, the size that images are resized to, and the model's window.
    """
    size = getattr(data, "image_size", None)
    figures = {name: _number(scores[name]) for name in ("miou", "pixel_acc")}
    return {
        "val": {**figures, "images": int(scores["images"]), "precision": precision},
        "data": {
            "name": None if data is None else type(data).__name__,
            "split": "val",
            "image_size": None if size is None else [int(side) for side in size],
            "window": None if model.window is None else model.window.describe(),
        },
    }


def checkpoint_record(
    validation: Mapping[str, Any] | None, attack: Attack | None, checkpoint: Mapping[str, Any], network: nn.Module
) -> dict[str, Any]:
    """Build the entry :data:`~robustseg.models.RECORD_KEY` of a checkpoint: strings, numbers, booleans and None only.

    With only these types, the file stays readable by ``torch.load(weights_only=True)``.

    Args:
        validation: :func:`validation_record` of exactly these weights; None if they were not validated.
        attack: The attacker in the loop, or None for standard training.
        checkpoint: The checkpoint, for ``epoch``, ``global_step`` and averaging.
        network: The network, for its class and its :attr:`~robustseg.models.Network.settings`.
    """
    known = {"val": None, "data": None} if validation is None else validation
    return {
        "format": RECORD_FORMAT,
        **known,
        "epoch": checkpoint.get("epoch"),
        "global_step": checkpoint.get("global_step"),
        # Lightning's WeightAveraging saves the average in place of the weights, and the weights elsewhere.
        "averaged": "averaging_state" in checkpoint,
        "network": {"class": type(network).__name__, "settings": dict(getattr(network, "settings", {}))},
        "trained_with": None if attack is None else plain(attack.describe()),
    }


def plain(value: Any) -> Any:
    """Convert ``value`` to strings, numbers, booleans, None, lists and dicts, with the same result in any process."""
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"  # Its repr contains an address.
    # Exact types: a subclass, such as NumPy's float64, would be pickled as an object of its own.
    return value if value is None or type(value) in (str, int, float, bool) else str(value)


def _number(value: Tensor) -> float | None:
    """Convert a score to a float; None for NaN (a split without valid pixels), which nothing can be compared with."""
    number = float(value)
    return number if math.isfinite(number) else None
