"""Layouts of Segmenter of rstrudel/segmenter, of PIR-AT, which is built on it, and of MMSegmentation."""

from __future__ import annotations

from math import isqrt

import torch
from torch import nn

from robustseg.models.checkpoints.layouts.layout import ForeignError, Layout, State
from robustseg.models.segmenter import Segmenter

_VIT = "backbone.body.model"


def _fit(state: State, network: nn.Module) -> State:
    """Transpose the projections, since they are applied from the right, and check the size of the images."""
    for key in ("head.project_patches.weight", "head.project_classes.weight"):
        if key in state and state[key].dim() == 2:
            state[key] = state[key].T.contiguous()
    return _check_positions(state, network)


def _check_positions(state: State, network: nn.Module) -> State:
    key = f"{_VIT}.pos_embed"
    own, theirs = network.state_dict()[key], state.get(key)
    if theirs is not None and theirs.dim() == 3 and theirs.shape[2] == own.shape[2] and theirs.shape != own.shape:
        side = isqrt(theirs.shape[1] - 1)
        if side * side == theirs.shape[1] - 1:
            pixels = side * network.backbone.patch_size[0]  # type: ignore[union-attr,index]
            raise ForeignError(
                f"the weights are those of a Segmenter for images of {pixels}×{pixels}: set img_size: {pixels} in "
                f"model.network.init_args.backbone_args; it resizes its position embeddings to other images by itself."
            )
    return state


_BLOCK = r"(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)"
# PIR-AT has the same names; only rstrudel/segmenter normalises images, so the model keeps its own normalisation
SEGMENTER = Layout(
    name="rstrudel/segmenter",
    network=Segmenter,
    config="segmenter_vit_s",
    marks=(r"encoder\.patch_embed\.proj\.", r"decoder\.cls_emb", r"decoder\.proj_classes", r"decoder\.mask_norm\."),
    absent=(r"encoder\.dist_token",),
    renames=(
        (r"encoder\.norm\.", "backbone.norm."),
        (r"encoder\.", f"{_VIT}."),
        (r"decoder\.cls_emb", "head.class_tokens"),
        (r"decoder\.proj_dec\.", "head.project."),
        (r"decoder\.proj_patch\Z", "head.project_patches.weight"),
        (r"decoder\.proj_classes\Z", "head.project_classes.weight"),
        (r"decoder\.decoder_norm\.", "head.norm."),
        (r"decoder\.mask_norm\.", "head.logit_norm."),
        (rf"decoder\.blocks\.(\d+)\.{_BLOCK}\.", r"head.blocks.\1.\2."),
    ),
    # the ImageNet classifier, which is kept and not used
    dropped=(r"encoder\.head\.",),
    settings={"norm_eps": 1e-5, "position_resize": "bilinear", "crop_padding": True},
    adapt=_fit,
)


def _fit_mmseg(state: State, network: nn.Module) -> State:
    """Add a zero bias to the patch embedding, which has none there unless ``patch_bias`` is set."""
    bias = f"{_VIT}.patch_embed.proj.bias"
    state.setdefault(bias, torch.zeros_like(network.state_dict()[bias]))
    return _check_positions(state, network)


_MMSEG_BLOCK = (
    ("ln1", "norm1"),
    ("ln2", "norm2"),
    (r"attn\.attn\.out_proj", "attn.proj"),
    (r"ffn\.layers\.0\.0", "mlp.fc1"),
    (r"ffn\.layers\.1", "mlp.fc2"),
)
MMSEG = Layout(
    name="MMSegmentation Segmenter",
    network=Segmenter,
    config="segmenter_vit_s_mmseg",
    marks=(r"backbone\.patch_embed\.projection\.", r"decode_head\.cls_emb", r"decode_head\.classes_proj\."),
    renames=(
        (r"backbone\.(cls_token|pos_embed)", rf"{_VIT}.\1"),
        (r"backbone\.patch_embed\.projection\.", f"{_VIT}.patch_embed.proj."),
        (r"backbone\.ln1\.", "backbone.norm."),
        (r"decode_head\.cls_emb", "head.class_tokens"),
        (r"decode_head\.dec_proj\.", "head.project."),
        (r"decode_head\.patch_proj\.", "head.project_patches."),
        (r"decode_head\.classes_proj\.", "head.project_classes."),
        (r"decode_head\.decoder_norm\.", "head.norm."),
        (r"decode_head\.mask_norm\.", "head.logit_norm."),
        *(
            pair
            for theirs, ours in ((r"backbone\.layers", f"{_VIT}.blocks"), (r"decode_head\.layers", "head.blocks"))
            for pair in (
                (rf"{theirs}\.(\d+)\.attn\.attn\.in_proj_", rf"{ours}.\1.attn.qkv."),
                *((rf"{theirs}\.(\d+)\.{part}\.", rf"{ours}.\1.{name}.") for part, name in _MMSEG_BLOCK),
            )
        ),
    ),
    settings={"norm_eps": 1e-6, "position_resize": "bicubic", "crop_padding": False},
    adapt=_fit_mmseg,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)

LAYOUTS = (SEGMENTER, MMSEG)
