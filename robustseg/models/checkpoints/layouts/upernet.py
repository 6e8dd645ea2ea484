"""Layouts of UPerNet over ConvNeXt of transformers, MMSegmentation, facebookresearch/ConvNeXt and PIR-AT."""

from __future__ import annotations

from robustseg.models.checkpoints.layouts.layout import Layout
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD, RAW_MEAN, RAW_STD
from robustseg.models.upernet import UPerNet

_CONV_MODULES = (
    # and the index of the convolution in ours
    (r"decode_head\.psp_modules\.(\d)\.1", r"head.pooling.\1", 1),
    (r"decode_head\.bottleneck", "head.bottleneck", 0),
    (r"decode_head\.lateral_convs\.(\d)", r"head.lateral.\1", 0),
    (r"decode_head\.fpn_convs\.(\d)", r"head.smooth.\1", 0),
    (r"decode_head\.fpn_bottleneck", "head.fuse", 0),
    (r"auxiliary_head\.convs\.0", "aux_head.0", 0),
)
_HEADS = (
    *((rf"{theirs}\.conv\.", f"{ours}.{index}.") for theirs, ours, index in _CONV_MODULES),
    *((rf"{theirs}\.(?:bn|batch_norm)\.", f"{ours}.{index + 1}.") for theirs, ours, index in _CONV_MODULES),
    (r"decode_head\.(?:conv_seg|classifier)\.", "head.classifier."),
    (r"auxiliary_head\.(?:conv_seg|classifier)\.", "aux_head.2."),
)
_BLOCK = (
    ("dwconv|depthwise_conv", "conv_dw"),
    ("norm|layernorm", "norm"),
    ("pwconv1|pointwise_conv1", "mlp.fc1"),
    ("pwconv2|pointwise_conv2", "mlp.fc2"),
)
_TRANSFORMERS = (
    (r"backbone\.embeddings\.patch_embeddings\.", "backbone.body.stem_0."),
    (r"backbone\.embeddings\.layernorm\.", "backbone.body.stem_1."),
    (r"backbone\.encoder\.stages\.(\d)\.downsampling_layer\.", r"backbone.body.stages_\1.downsample."),
    (
        r"backbone\.encoder\.stages\.(\d)\.layers\.(\d+)\.layer_scale_parameter",
        r"backbone.body.stages_\1.blocks.\2.gamma",
    ),
    *(
        (
            rf"backbone\.encoder\.stages\.(\d)\.layers\.(\d+)\.(?:{theirs})\.",
            rf"backbone.body.stages_\1.blocks.\2.{ours}.",
        )
        for theirs, ours in _BLOCK
    ),
    *((rf"backbone\.hidden_states_norms\.stage{level + 1}\.", f"level_norms.{level}.") for level in range(4)),
)
_ORIGINAL = (
    (r"backbone\.downsample_layers\.0\.stem\.", "backbone.body.stem_0."),
    (r"backbone\.downsample_layers\.0\.(\d)\.", r"backbone.body.stem_\1."),
    (r"backbone\.downsample_layers\.(\d)\.", r"backbone.body.stages_\1.downsample."),
    (r"backbone\.stages\.(\d)\.(\d+)\.gamma", r"backbone.body.stages_\1.blocks.\2.gamma"),
    *(
        (rf"backbone\.stages\.(\d)\.(\d+)\.(?:{theirs})\.", rf"backbone.body.stages_\1.blocks.\2.{ours}.")
        for theirs, ours in _BLOCK
    ),
    (r"backbone\.norm(\d)\.", r"level_norms.\1."),
)

TRANSFORMERS = Layout(
    name="transformers UperNetForSemanticSegmentation with ConvNext",
    network=UPerNet,
    config="upernet_convnext_t",
    marks=(
        r"backbone\.embeddings\.patch_embeddings\.",
        r"backbone\.encoder\.stages\.\d\.layers\.\d+\.dwconv\.",
        r"decode_head\.psp_modules\.",
    ),
    renames=(*_TRANSFORMERS, *_HEADS),
    settings={"conv_stem": False},
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
MMSEG = Layout(
    name="MMSegmentation UPerNet with ConvNeXt",
    network=UPerNet,
    config="upernet_convnext_t",
    marks=(r"backbone\.downsample_layers\.", r"decode_head\.psp_modules\.", r"decode_head\.conv_seg\."),
    renames=(*_ORIGINAL, *_HEADS),
    settings={"conv_stem": False},
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
# nmndeep/Robust-Segmentation: the head of transformers on the backbone of facebookresearch/ConvNeXt, and images in
# [0, 1] without a normalisation, in training (tools/train_rob_seg.py) as in evaluation (tools/infer.py)
PIRAT_CONV_STEM = Layout(
    name="PIR-AT (nmndeep/Robust-Segmentation) UPerNet with ConvNeXt-CvSt",
    network=UPerNet,
    config="upernet_convnext_t_cvst",
    marks=(r"backbone\.downsample_layers\.0\.stem\.", r"decode_head\.psp_modules\.", r"decode_head\.classifier\."),
    renames=(*_ORIGINAL, *_HEADS),
    settings={"conv_stem": True},
    mean=RAW_MEAN,
    std=RAW_STD,
)
PIRAT = Layout(
    name="PIR-AT (nmndeep/Robust-Segmentation) UPerNet with ConvNeXt",
    network=UPerNet,
    config="upernet_convnext_t",
    marks=(r"backbone\.downsample_layers\.0\.0\.", r"decode_head\.psp_modules\.", r"decode_head\.classifier\."),
    renames=(*_ORIGINAL, *_HEADS),
    settings={"conv_stem": False},
    mean=RAW_MEAN,
    std=RAW_STD,
)

LAYOUTS = (TRANSFORMERS, MMSEG, PIRAT_CONV_STEM, PIRAT)
