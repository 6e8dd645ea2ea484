"""PSPNet and DeepLabV3 of hszhao/semseg and of what is built on it (DDC-AT, SegPGD)."""

from __future__ import annotations

from robustseg.models.foreign.layout import Layout
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD
from robustseg.models.networks import PSPNet

_BACKBONE = (
    # layer0 is conv, bn, relu, conv, bn, relu, conv, bn, relu, maxpool: timm keeps the convolutions of its deep
    # stem in one Sequential and the last BatchNorm beside it
    (r"layer0\.7\.", "backbone.body.bn1."),
    (r"layer0\.(\d)\.", r"backbone.body.conv1.\1."),
    (r"layer([1-4])\.", r"backbone.body.layer\1."),
)
_AUX = (
    (r"aux\.0\.", "aux_head.0.0."),
    (r"aux\.1\.", "aux_head.0.1."),
    (r"aux\.4\.", "aux_head.2."),
)

PSPNET = Layout(
    name="hszhao/semseg PSPNet",
    network=PSPNet,
    config="pspnet_r50_semseg.yaml",
    marks=(r"layer0\.", r"ppm\.features\.0\.1\.", r"cls\.4\."),
    renames=(
        *_BACKBONE,
        *_AUX,
        (r"ppm\.features\.(\d)\.", r"head.branches.\1."),
        (r"cls\.0\.", "head.classifier.0.0."),
        (r"cls\.1\.", "head.classifier.0.1."),
        (r"cls\.4\.", "head.classifier.2."),
    ),
    settings={"align_corners": True, "first_block_dilated": True},
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)

LAYOUTS = (PSPNET,)
