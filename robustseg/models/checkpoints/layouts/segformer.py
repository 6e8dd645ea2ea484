"""Layouts of SegFormer of NVlabs, transformers and MMSegmentation."""

from __future__ import annotations

import torch
from torch import nn

from robustseg.models.checkpoints.layouts.layout import Layout, State
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD
from robustseg.models.segformer import SegFormer

_BODY = "backbone.body"


def _block(prefix: str, stage: int, names: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return the renames of the parts of a stage's blocks; ``prefix`` ends before the number of the block."""
    return tuple(
        (rf"{prefix}\.(\d+)\.{theirs}\.", rf"{_BODY}.stages_{stage}.blocks.\1.{ours}.") for theirs, ours in names
    )


def _embedding(stage: int) -> str:
    return f"{_BODY}.stages_{stage}.downsample" if stage else f"{_BODY}.patch_embed"


def _fit(state: State, network: nn.Module) -> State:
    """Join or split tensors as this package stores them, and convert between linear layers and 1×1 convolutions."""
    for key in [key for key in state if ".attn.k." in key]:
        value, both = key.replace(".attn.k.", ".attn.v."), key.replace(".attn.k.", ".attn.kv.")
        if value in state and state[value].shape == state[key].shape:
            state[both] = torch.cat([state.pop(key), state.pop(value)])
    for key in [key for key in state if ".attn.qkv." in key and state[key].dim()]:
        joint = state.pop(key)
        width = len(joint) // 3
        state[key.replace(".attn.qkv.", ".attn.q.")] = joint[:width]
        state[key.replace(".attn.qkv.", ".attn.kv.")] = joint[width:]
    own = network.state_dict()
    for key, tensor in state.items():
        if key in own and {tensor.dim(), own[key].dim()} == {2, 4} and tensor.numel() == own[key].numel():
            state[key] = tensor.reshape(own[key].shape)
    return state


def _fit_mmseg(state: State, network: nn.Module) -> State:
    state = _fit(state, network)
    fuse = state.get("head.fuse.0.weight")
    if fuse is not None and fuse.dim() == 4 and fuse.shape[1] % 4 == 0:
        # MMSegmentation puts the finest level first
        state["head.fuse.0.weight"] = torch.cat(fuse.chunk(4, dim=1)[::-1], dim=1)
    return state


_NVLABS_BLOCK = (
    ("norm1", "norm1"),
    (r"attn\.(q|kv|proj|sr|norm)", r"attn.\2"),
    ("norm2", "norm2"),
    (r"mlp\.(fc1|fc2)", r"mlp.\2"),
    (r"mlp\.dwconv\.dwconv", "mlp.dwconv"),
)
NVLABS = Layout(
    name="NVlabs/SegFormer",
    network=SegFormer,
    config="segformer_b0",
    marks=(r"backbone\.patch_embed1\.", r"decode_head\.linear_c4\.", r"decode_head\.linear_pred\."),
    renames=(
        *((rf"backbone\.patch_embed{stage + 1}\.", f"{_embedding(stage)}.") for stage in range(4)),
        *(pair for stage in range(4) for pair in _block(rf"backbone\.block{stage + 1}", stage, _NVLABS_BLOCK)),
        *((rf"backbone\.norm{stage + 1}\.", f"{_BODY}.stages_{stage}.norm.") for stage in range(4)),
        *((rf"decode_head\.linear_c{stage + 1}\.proj\.", f"head.projections.{stage}.") for stage in range(4)),
        (r"decode_head\.linear_fuse\.conv\.", "head.fuse.0."),
        (r"decode_head\.linear_fuse\.bn\.", "head.fuse.1."),
        (r"decode_head\.linear_pred\.", "head.classifier."),
    ),
    # a classifier of its base class that no forward pass uses
    dropped=(r"decode_head\.conv_seg\.",),
    settings={"norm_eps": None, "projection_bn": False},
    adapt=_fit,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)

_TRANSFORMERS_HEAD = (
    (r"decode_head\.(?:linear_c|linear_projections)\.(\d)\.proj\.", r"head.projections.\1."),
    (r"decode_head\.linear_fuse\.", "head.fuse.0."),
    (r"decode_head\.batch_norm\.", "head.fuse.1."),
    (r"decode_head\.classifier\.", "head.classifier."),
)
_FILE_BLOCK = (
    ("layer_norm_1", "norm1"),
    (r"attention\.self\.query", "attn.q"),
    (r"attention\.self\.key", "attn.k"),
    (r"attention\.self\.value", "attn.v"),
    (r"attention\.self\.sr", "attn.sr"),
    (r"attention\.self\.layer_norm", "attn.norm"),
    (r"attention\.output\.dense", "attn.proj"),
    ("layer_norm_2", "norm2"),
    (r"mlp\.dense([12])", r"mlp.fc\2"),
    (r"mlp\.dwconv\.dwconv", "mlp.dwconv"),
)
TRANSFORMERS_FILE = Layout(
    name="transformers SegformerForSemanticSegmentation",
    network=SegFormer,
    config="segformer_b0_transformers",
    marks=(r"segformer\.encoder\.block\.", r"decode_head\.linear_c\.", r"decode_head\.linear_fuse\."),
    renames=(
        *(
            (rf"segformer\.encoder\.patch_embeddings\.{stage}\.proj\.", f"{_embedding(stage)}.proj.")
            for stage in range(4)
        ),
        *(
            (rf"segformer\.encoder\.patch_embeddings\.{stage}\.layer_norm\.", f"{_embedding(stage)}.norm.")
            for stage in range(4)
        ),
        *(pair for stage in range(4) for pair in _block(rf"segformer\.encoder\.block\.{stage}", stage, _FILE_BLOCK)),
        (r"segformer\.encoder\.layer_norm\.(\d)\.", rf"{_BODY}.stages_\1.norm."),
        *_TRANSFORMERS_HEAD,
    ),
    settings={"norm_eps": 1e-5, "projection_bn": False},
    adapt=_fit,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)

_MEMORY_BLOCK = (
    ("layernorm_before", "norm1"),
    (r"attention\.([qkv])_proj", r"attn.\2"),
    (r"attention\.o_proj", "attn.proj"),
    (r"attention\.sequence_reduction\.sequence_reduction", "attn.sr"),
    (r"attention\.sequence_reduction\.layer_norm", "attn.norm"),
    ("layernorm_after", "norm2"),
    (r"mlp\.(fc1|fc2)", r"mlp.\2"),
    (r"mlp\.dwconv\.dwconv", "mlp.dwconv"),
)
# names of state_dict() since transformers 5; save_pretrained still writes the names above
TRANSFORMERS_MEMORY = Layout(
    name="transformers 5 SegformerForSemanticSegmentation",
    network=SegFormer,
    config="segformer_b0_transformers",
    marks=(r"segformer\.stages\.", r"decode_head\.linear_projections\.", r"decode_head\.linear_fuse\."),
    renames=(
        *(
            (rf"segformer\.stages\.{stage}\.patch_embeddings\.proj\.", f"{_embedding(stage)}.proj.")
            for stage in range(4)
        ),
        *(
            (rf"segformer\.stages\.{stage}\.patch_embeddings\.layer_norm\.", f"{_embedding(stage)}.norm.")
            for stage in range(4)
        ),
        *(pair for stage in range(4) for pair in _block(rf"segformer\.stages\.{stage}\.blocks", stage, _MEMORY_BLOCK)),
        (r"segformer\.stages\.(\d)\.layer_norm\.", rf"{_BODY}.stages_\1.norm."),
        *_TRANSFORMERS_HEAD,
    ),
    settings={"norm_eps": 1e-5, "projection_bn": False},
    adapt=_fit,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)

_MMSEG_BLOCK = (
    ("norm1", "norm1"),
    ("norm2", "norm2"),
    (r"attn\.attn\.out_proj", "attn.proj"),
    (r"attn\.(sr|norm)", r"attn.\2"),
    (r"ffn\.layers\.0", "mlp.fc1"),
    (r"ffn\.layers\.1", "mlp.dwconv"),
    (r"ffn\.layers\.4", "mlp.fc2"),
)
MMSEG = Layout(
    name="MMSegmentation SegFormer",
    network=SegFormer,
    config="segformer_b0_mmseg",
    marks=(r"backbone\.layers\.0\.0\.projection\.", r"decode_head\.convs\.0\.conv\.", r"decode_head\.fusion_conv\."),
    renames=(
        *((rf"backbone\.layers\.{stage}\.0\.projection\.", f"{_embedding(stage)}.proj.") for stage in range(4)),
        *((rf"backbone\.layers\.{stage}\.0\.norm\.", f"{_embedding(stage)}.norm.") for stage in range(4)),
        *(
            (
                rf"backbone\.layers\.{stage}\.1\.(\d+)\.attn\.attn\.in_proj_",
                rf"{_BODY}.stages_{stage}.blocks.\1.attn.qkv.",
            )
            for stage in range(4)
        ),
        *(pair for stage in range(4) for pair in _block(rf"backbone\.layers\.{stage}\.1", stage, _MMSEG_BLOCK)),
        (r"backbone\.layers\.(\d)\.2\.", rf"{_BODY}.stages_\1.norm."),
        (r"decode_head\.convs\.(\d)\.conv\.", r"head.projections.\1.0."),
        (r"decode_head\.convs\.(\d)\.bn\.", r"head.projections.\1.1."),
        (r"decode_head\.fusion_conv\.conv\.", "head.fuse.0."),
        (r"decode_head\.fusion_conv\.bn\.", "head.fuse.1."),
        (r"decode_head\.conv_seg\.", "head.classifier."),
    ),
    settings={"norm_eps": 1e-6, "projection_bn": True},
    adapt=_fit_mmseg,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)

LAYOUTS = (NVLABS, TRANSFORMERS_FILE, TRANSFORMERS_MEMORY, MMSEG)
