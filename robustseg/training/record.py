"""What a checkpoint says about itself: plain numbers beside the weights, for an evaluation to check against."""

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
    """The clean scores of a validation and what they depend on besides the weights.

    Args:
        scores: Of :class:`~robustseg.metrics.SegmentationScores`.
        model: What was validated.
        data: Data set that the images came from, or a data module that is not ours, or None.
        precision: The trainer's, for example ``"bf16-mixed"``: figures of another one differ a little.

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
    """The entry :data:`~robustseg.models.RECORD_KEY` of a checkpoint; strings, numbers, booleans and None only.

    With nothing else in it, the file stays readable by ``torch.load(weights_only=True)``.

    Args:
        validation: :func:`validation_record` of exactly these weights; None where they were not validated.
        attack: The attacker in the loop, or None for standard training.
        checkpoint: Gives ``epoch`` and ``global_step``.
        network: Gives its class and its :attr:`~robustseg.models.Network.settings`.
    """
    known = {"val": None, "data": None} if validation is None else validation
    return {
        "format": RECORD_FORMAT,
        **known,
        "epoch": checkpoint.get("epoch"),
        "global_step": checkpoint.get("global_step"),
        # Lightning's WeightAveraging puts the average in the place of the weights, and these elsewhere.
        "averaged": "averaging_state" in checkpoint,
        "network": {"class": type(network).__name__, "settings": dict(getattr(network, "settings", {}))},
        "trained_with": None if attack is None else plain(attack.describe()),
    }


def plain(value: Any) -> Any:
    """``value`` with whatever is not a string, number, boolean or None in it as a string, the same in any process."""
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"  # its representation has an address in it
    # Exact types: NumPy's float64 is a float, but as an object of its own in a pickle.
    return value if value is None or type(value) in (str, int, float, bool) else str(value)


def _number(value: Tensor) -> float | None:
    """NaN, of a split without a valid pixel, is no figure to compare with."""
    number = float(value)
    return number if math.isfinite(number) else None
