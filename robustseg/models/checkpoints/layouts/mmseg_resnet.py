"""Layouts of MMSegmentation's PSPNet, DeepLabV3 and FCN over ResNets, ``*_r18-d8_*`` to ``*_r101-d8_*``.

The backbones are ``ResNetV1c``, whose stem is three convolutions of 32, 32 and 64 channels, and ``ResNet``, that of
torchvision (``r50b``), with ``contract_dilation``, as in all of that project's configurations of stride 8.

Networks trained with ``769x769`` crops align corners and the others do not. The file does not show it, so the setting
of the network here decides. The variants of stride 16 and 32, of multi-grid and of other dilations in the head
(``d16``, ``d32``, ``mg124``, FCN-``d6``) have the same names and shapes and cannot be distinguished from these; they
are not supported. ``ResNetV1d`` is not recognised, since timm pools differently in dilated stages.
"""

from __future__ import annotations

import logging

import torch
from torch import nn

from robustseg.models.checkpoints.layouts.layout import Layout, State
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD
from robustseg.models.networks import FCN, DeepLabV3, EncoderDecoder, PSPNet

logger = logging.getLogger(__name__)

_BACKBONE = (
    # the stem is conv, bn, relu three times: timm keeps the last BatchNorm beside its Sequential
    (r"backbone\.stem\.7\.", "backbone.body.bn1."),
    (r"backbone\.stem\.(\d)\.", r"backbone.body.conv1.\1."),
    (r"backbone\.", "backbone.body."),
)
_AUX = (
    (r"auxiliary_head\.convs\.0\.conv\.", "aux_head.0.0."),
    (r"auxiliary_head\.convs\.0\.bn\.", "aux_head.0.1."),
    (r"auxiliary_head\.conv_seg\.", "aux_head.2."),
)
_SETTINGS = {"output_stride": 8, "first_block_dilated": False, "aux_kernel": 3}


def _convs(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Return the renames from a ``ConvModule`` to a convolution and its BatchNorm; patterns may hold a number."""
    return (rf"decode_head\.{theirs}\.conv\.", f"head.{ours}.0."), (rf"decode_head\.{theirs}\.bn\.", f"head.{ours}.1.")


def _adapt(state: State, network: nn.Module) -> State:
    """Reorder DeepLabV3's projection: the image-level features are its first inputs there and its last ones here."""
    aligned = bool(getattr(network, "align_corners", False))
    logger.info(
        "MMSegmentation's weights trained with 769x769 crops need align_corners: true, all others false, and their "
        "file does not say which they are: this network has align_corners: %s",
        str(aligned).lower(),
    )
    name = "head.project.0.0.weight"
    return {key: torch.roll(value, -value.shape[0], 1) if key == name else value for key, value in state.items()}


def _layouts(
    kind: str,
    network: type[EncoderDecoder],
    head: tuple[str, ...],
    renames: tuple[tuple[str, str], ...],
    **settings: object,
) -> tuple[Layout, ...]:
    """Return the layouts over ResNets with blocks of two and of three convolutions.

    Args:
        kind: Beginning of the names of the configurations.
        network: Class of the network in this package.
        head: All parts of the decode head; heads with further parts, such as DeepLabV3+, are not recognised.
        renames: Renames of the decode head's tensors.
        settings: Settings that the tensors do not show.
    """
    other_parts = rf"decode_head\.(?!(?:{'|'.join(head)})\.)"
    return tuple(
        Layout(
            name=f"MMSegmentation {network.__name__} over {blocks}",
            network=network,
            config=f"{kind}_{depth}_mmseg",
            backbone="resnet{}" if last == "conv2" else "resnet{}c",
            marks=(rf"backbone\.layer4\.0\.{last}\.", *(rf"decode_head\.{part}\." for part in head)),
            absent=(rf"backbone\.layer4\.0\.{absent}\.", r"backbone\.layer\d\.0\.downsample\.2\.", other_parts),
            renames=(*_BACKBONE, *_AUX, *renames),
            settings={**_SETTINGS, "dilate_once": last == "conv2", **settings},
            adapt=_adapt,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )
        for blocks, depth, last, absent in (
            ("ResNet-18 or -34", "r18", "conv2", "conv3"),
            ("ResNet-50, -101 or -152", "r50", "conv3", "conv4"),
        )
    )


LAYOUTS = (
    *_layouts(
        "pspnet",
        PSPNet,
        ("psp_modules", "bottleneck", "conv_seg"),
        (
            (r"decode_head\.psp_modules\.(\d)\.1\.conv\.", r"head.branches.\1.1."),
            (r"decode_head\.psp_modules\.(\d)\.1\.bn\.", r"head.branches.\1.2."),
            *_convs("bottleneck", "classifier.0"),
            (r"decode_head\.conv_seg\.", "head.classifier.2."),
        ),
    ),
    *_layouts(
        "deeplabv3",
        DeepLabV3,
        ("aspp_modules", "image_pool", "bottleneck", "conv_seg"),
        (
            *_convs(r"aspp_modules\.(\d)", r"branches.\1"),
            (r"decode_head\.image_pool\.1\.conv\.", "head.image_pooling.1."),
            (r"decode_head\.image_pool\.1\.bn\.", "head.image_pooling.2."),
            *_convs("bottleneck", "project.0"),
            (r"decode_head\.conv_seg\.", "head.classifier.0."),
        ),
        rates=[12, 24, 36],
        project_kernel=3,
        refine=False,
    ),
    *_layouts(
        "fcn",
        FCN,
        ("convs", "conv_cat", "conv_seg"),
        (
            *_convs(r"convs\.(\d)", r"0.convs.\1"),
            *_convs("conv_cat", "0.joint"),
            (r"decode_head\.conv_seg\.", "head.2."),
        ),
        convs=2,
        concat_input=True,
    ),
)
