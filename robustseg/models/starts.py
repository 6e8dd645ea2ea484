"""Loading a classification network's weights into a backbone that is not built by timm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from robustseg.models.errors import ModelError
from robustseg.models.mismatch import compare


def load_start(
    body: nn.Module, state: Mapping[str, Tensor], unused: Sequence[str], name: str, source: str | Path
) -> None:
    """Load weights strictly, but for what belongs to the classifier.

    Args:
        body: Receives the weights; left as it is when anything does not fit.
        state: The tensors, by the names that they have in ``body``.
        unused: Beginnings of the keys that ``body`` has no use for; they may be there or not.
        name: Of the architecture, for messages.
        source: The file, for messages.

    Raises:
        ModelError: These are other weights.
    """
    own = body.state_dict()
    # counters are absent from files older than PyTorch 0.4.1, and without effect on BatchNorm with a momentum
    found = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    found |= {key: value for key, value in state.items() if not key.startswith(tuple(unused))}
    if mismatch := compare(own, found):
        raise ModelError(f"{source} does not hold the weights of backbone {name}: {mismatch}.")
    with torch.no_grad():
        body.load_state_dict(found, strict=True)


def without_unused_projections(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the projections of DLA's nested trees, which its authors' files hold and no forward pass uses.

    A tree uses its projection where its ``tree1`` is a block; where that is a tree again, it has its own.
    """
    return {
        key: value
        for key, value in state.items()
        if not (tree := re.match(r"(.*\blevel\d(?:\.tree\d)*)\.project\.", key))
        or f"{tree[1]}.tree1.conv1.weight" in state
    }
