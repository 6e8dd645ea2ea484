"""The loading of a classification network's weights into backbones, and of position embeddings of another size."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from math import isqrt
from pathlib import Path

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from robustseg.models.checkpoints.compare import compare, shorten
from robustseg.models.errors import ModelError

logger = logging.getLogger(__name__)

_HEADS = r"(?:\w+\.)*(decode_head|auxiliary_head|aux_classifier|aux_head|segmentation_head|decoder|ppm|aspp)\."
_BACKBONE = r"((?:module|model|net|network)\.)*(backbone|encoder|segformer)\."


def load_start(
    body: nn.Module, state: Mapping[str, Tensor], unused: Sequence[str], name: str, source: str | Path
) -> None:
    """Load weights strictly, except for the classifier's.

    Args:
        body: The module that receives the weights; left unchanged if anything does not fit.
        state: The tensors, by their names in ``body``.
        unused: Beginnings of the keys that ``body`` does not use; these keys are optional.
        name: Name of the architecture, for messages.
        source: The file, for messages.

    Raises:
        ModelError: The weights do not fit the architecture.
    """
    own = body.state_dict()
    # counters are absent from files older than PyTorch 0.4.1; BatchNorm with a momentum does not use them
    found = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    found |= {key: value for key, value in state.items() if not key.startswith(tuple(unused))}
    if mismatch := compare(own, found):
        raise ModelError(f"{source} does not hold the weights of backbone {name}: {mismatch}.")
    with torch.no_grad():
        body.load_state_dict(found, strict=True)


def without_unused_projections(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the unused projections of DLA's nested trees, which its authors' files hold.

    A tree uses its projection if its ``tree1`` is a block; a ``tree1`` that is itself a tree has its own projection.
    """
    return {
        key: value
        for key, value in state.items()
        if not (tree := re.match(r"(.*\blevel\d(?:\.tree\d)*)\.project\.", key))
        or f"{tree[1]}.tree1.conv1.weight" in state
    }


def segmentation_hint(keys: Iterable[str]) -> str:
    """Return advice on the weights of a segmentation network, or an empty string if these keys are not of one."""
    keys = list(keys)
    heads = list(dict.fromkeys(match[1] for key in keys if (match := re.match(_HEADS, key))))
    inside = [key for key in keys if re.match(_BACKBONE, key)]
    if not inside or (not heads and len(inside) == len(keys)):
        return ""
    heads = heads or list(dict.fromkeys(key.partition(".")[0] for key in keys if key not in inside))
    return (
        f"; it seems to be the checkpoint of a segmentation network ({shorten(heads)}), and weights: takes those of a "
        f"classifier: give it as model.init_weights, and leave weights out"
    )


def resized_positions(body: nn.Module, state: Mapping[str, Tensor], key: str, source: str | Path) -> dict[str, Tensor]:
    """Resize a ViT's position embeddings if they are for images of another size, as timm does.

    Args:
        body: timm's feature extractor.
        state: The file's tensors.
        key: Name of the position embeddings in ``state``.
        source: The file, for the log.

    Returns:
        The tensors; unchanged if ``body`` is not a ViT or the embeddings are not a square grid of its width.
    """
    vit = getattr(body, "model", body)
    own, theirs = getattr(vit, "pos_embed", None), state.get(key)
    grid = getattr(getattr(vit, "patch_embed", None), "grid_size", None)
    if not isinstance(own, Tensor) or theirs is None or grid is None or own.shape == theirs.shape:
        return dict(state)
    if own.dim() != 3 or theirs.dim() != 3 or own.shape[2] != theirs.shape[2] or not theirs.is_floating_point():
        return dict(state)
    prefix = own.shape[1] - grid[0] * grid[1]  # class and register tokens
    side = isqrt(max(theirs.shape[1] - prefix, 0))
    if prefix < 0 or side < 1 or side * side != theirs.shape[1] - prefix:
        return dict(state)
    resized = resample_abs_pos_embed(theirs, list(grid), [side, side], num_prefix_tokens=prefix)
    logger.info(
        "%s: position embeddings of %dx%d patches resized to %dx%d, those of the images of img_size",
        *(source, side, side, *grid),
    )
    return {**state, key: resized}
