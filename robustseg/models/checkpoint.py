"""Loading trained weights into a model that was built from local configuration."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypedDict

from torch import Tensor

from robustseg.models.errors import ModelError
from robustseg.models.model import SegmentationModel
from robustseg.models.weights import Mismatch, compare, read_state_dict, without_prefix


class WeightsInfo(TypedDict):
    """Where weights came from, for the report of an evaluation."""

    path: str
    sha256: str


def load_segmentation_weights(model: SegmentationModel, path: str | Path) -> WeightsInfo:
    """Load a Lightning checkpoint or a plain state dict, strictly, reading nothing but its tensors.

    The file never says which classes to build: whatever else it holds is ignored, and nothing in it is executed.
    The normalisation (``mean``, ``std``) is part of the weights and replaces the model's.

    Args:
        model: Receives the weights; left as it is when anything does not fit.
        path: ``.ckpt``, ``.pt``, ``.pth`` or ``.safetensors``; the LightningModule's prefix ``model.`` is removed,
            and its tensors outside ``model.`` are not the model's and are left out.

    Returns:
        The file's path and SHA-256 (hexadecimal).

    Raises:
        ModelError: The file is missing or unreadable, was trained with another number of classes, or differs from
            the model in the names, shapes or kinds of its tensors.
    """
    digest = _sha256(path)
    found = without_prefix(read_state_dict(path), "model.")
    expected = model.state_dict()
    mismatch = compare(expected, found)
    if mismatch:
        _refuse_other_classes(model, path, expected, found, mismatch)
        raise ModelError(f"{path} does not fit the network: {mismatch}; check model.network against its training run.")
    model.load_state_dict(found, strict=True)
    return WeightsInfo(path=str(path), sha256=digest)


def _refuse_other_classes(
    model: SegmentationModel,
    path: str | Path,
    expected: dict[str, Tensor],
    found: dict[str, Tensor],
    mismatch: Mismatch,
) -> None:
    """Raise the one message for a differing class count, where that is all that differs."""
    if mismatch.missing or mismatch.unexpected:
        return
    pairs = [(expected[key].shape, found[key].shape) for key in mismatch.wrong]
    per_class = all(own[0] == model.num_classes and own[1:] == other[1:] for own, other in pairs if other and own)
    counts = {other[0] for _, other in pairs if len(other) == 4}  # a classifier's weight, not a stray bias
    if per_class and len(counts) == 1 and all(other and other[0] in counts for _, other in pairs):
        raise ModelError(
            f"{path} was trained with {counts.pop()} classes, the model has {model.num_classes}: use the data set it "
            f"was trained on, or give the network its num_classes."
        )


def _sha256(path: str | Path) -> str:
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_file():  # read_state_dict has the message for a missing file
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
