"""Layouts of PSPNet of hszhao/semseg, and of PSPNet and DeepLabV3 of DDC-AT and the SegPGD paper, built on it.

DDC-AT (Xu et al., "Dynamic Divide-and-Conquer Adversarial Training for Robust Semantic Segmentation", ICCV 2021,
dvlab-research/Robust-Semantic-Segmentation, ``model/pspnet.py``) trains a second classifier and a mask that chooses
between the two; its evaluation, and this package, use the first classifier only. Its standard and adversarial (SAT)
PSPNets have hszhao/semseg's names. Images are normalised with ImageNet's statistics times 255, for values up to 255.
"""

from __future__ import annotations

from robustseg.models.checkpoints.layouts.layout import Layout
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD
from robustseg.models.networks import DeepLabV3, PSPNet

_Renames = tuple[tuple[str, str], ...]

_BACKBONE: _Renames = (
    # layer0 is conv, bn, relu, conv, bn, relu, conv, bn, relu, maxpool; timm has the convolutions of its deep stem in
    # one Sequential and the last BatchNorm beside it
    (r"layer0\.7\.", "backbone.body.bn1."),
    (r"layer0\.(\d)\.", r"backbone.body.conv1.\1."),
    (r"layer([1-4])\.", r"backbone.body.layer\1."),
)
_SETTINGS = {"output_stride": 8, "align_corners": True, "first_block_dilated": True}
_DEEPLABV3_SETTINGS = {
    **{"output_stride": 8, "first_block_dilated": True, "align_corners": True},
    **{"rates": [6, 12, 18], "refine": False, "aux_kernel": 1},
}


def _aux(name: str) -> _Renames:
    return (rf"{name}\.([01])\.", r"aux_head.0.\1."), (rf"{name}\.4\.", "aux_head.2.")


def _pspnet(cls: str) -> _Renames:
    return (
        (r"ppm\.features\.(\d)\.", r"head.branches.\1."),
        (rf"{cls}\.([01])\.", r"head.classifier.0.\1."),
        (rf"{cls}\.4\.", "head.classifier.2."),
    )


def _deeplabv3(cls: str) -> _Renames:
    return (
        (r"aspp\.convs\.4\.", "head.image_pooling."),
        (r"aspp\.convs\.([0-3])\.", r"head.branches.\1."),
        (rf"{cls}\.([01])\.", r"head.project.0.\1."),
        (rf"{cls}\.4\.", "head.classifier.0."),
    )


PSPNET = Layout(
    name="hszhao/semseg PSPNet",
    network=PSPNet,
    config="pspnet_r50_semseg",
    deeper={101: "pspnet_r101_semseg"},
    backbone="resnet{}s",
    marks=(r"layer0\.", r"ppm\.features\.0\.1\.", r"cls\.4\."),
    renames=(*_BACKBONE, *_aux("aux"), *_pspnet("cls")),
    settings=_SETTINGS,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)

DDCAT_PSPNET = Layout(
    name="DDC-AT PSPNet",
    network=PSPNet,
    config="pspnet_r50_semseg",
    deeper={101: "pspnet_r101_semseg"},
    backbone="resnet{}s",
    marks=(r"layer0\.", r"ppm\.features\.0\.1\.", r"cls1\.4\.", r"mask1\.4\."),
    renames=(*_BACKBONE, *_aux("aux_cls1"), *_pspnet("cls1")),
    dropped=(r"cls2\.", r"mask1\."),
    settings=_SETTINGS,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)

DEEPLABV3 = Layout(
    name="dvlab-research/Robust-Semantic-Segmentation DeepLabV3",
    network=DeepLabV3,
    config="deeplabv3_r50_semseg",
    backbone="resnet{}s",
    marks=(r"layer0\.", r"aspp\.convs\.4\.1\.", r"cls\.4\."),
    renames=(*_BACKBONE, *_aux("aux"), *_deeplabv3("cls")),
    settings=_DEEPLABV3_SETTINGS,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)

DDCAT_DEEPLABV3 = Layout(
    name="DDC-AT DeepLabV3",
    network=DeepLabV3,
    config="deeplabv3_r50_semseg",
    backbone="resnet{}s",
    marks=(r"layer0\.", r"aspp\.convs\.4\.1\.", r"cls1\.4\.", r"mask1\.4\."),
    renames=(*_BACKBONE, *_aux("aux_cls1"), *_deeplabv3("cls1")),
    dropped=(r"cls2\.", r"mask1\."),
    settings=_DEEPLABV3_SETTINGS,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)

LAYOUTS = (PSPNET, DDCAT_PSPNET, DEEPLABV3, DDCAT_DEEPLABV3)
