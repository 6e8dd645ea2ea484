"""Layouts of torchvision's FCN and DeepLabV3 over ResNets, with or without auxiliary head."""

from __future__ import annotations

from robustseg.models.checkpoints.layouts.layout import Layout
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD
from robustseg.models.networks import FCN, DeepLabV3

_BACKBONE = ((r"backbone\.", "backbone.body."),)
_AUX = ((r"aux_classifier\.([01])\.", r"aux_head.0.\1."), (r"aux_classifier\.4\.", "aux_head.2."))
_DILATION = {"output_stride": 8, "align_corners": False, "first_block_dilated": False}

FCN_RESNET = Layout(
    name="torchvision FCN-ResNet",
    network=FCN,
    config="fcn_r50",
    deeper={101: "fcn_r101"},
    marks=(r"backbone\.layer4\.0\.conv3\.", r"classifier\.0\.weight", r"classifier\.4\.weight"),
    renames=(
        *_BACKBONE,
        *_AUX,
        (r"classifier\.([01])\.", r"head.0.\1."),
        (r"classifier\.4\.", "head.2."),
    ),
    settings={**_DILATION, "convs": 1, "concat_input": False, "aux_kernel": 3},
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)

DEEPLABV3_RESNET = Layout(
    name="torchvision DeepLabV3-ResNet",
    network=DeepLabV3,
    config="deeplabv3_r50",
    deeper={101: "deeplabv3_r101"},
    marks=(r"backbone\.layer4\.0\.conv3\.", r"classifier\.0\.convs\.4\.1\.", r"classifier\.0\.project\.0\."),
    renames=(
        *_BACKBONE,
        *_AUX,
        (r"classifier\.0\.convs\.4\.", "head.image_pooling."),
        (r"classifier\.0\.convs\.([0-3])\.", r"head.branches.\1."),
        (r"classifier\.0\.project\.([01])\.", r"head.project.0.\1."),
        (r"classifier\.1\.", "head.classifier.0.0."),
        (r"classifier\.2\.", "head.classifier.0.1."),
        (r"classifier\.4\.", "head.classifier.1."),
    ),
    settings={**_DILATION, "rates": [12, 24, 36], "project_kernel": 1, "refine": True, "aux_kernel": 3},
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)

LAYOUTS = (FCN_RESNET, DEEPLABV3_RESNET)
