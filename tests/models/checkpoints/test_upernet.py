"""Checkpoints of UPerNet over ConvNeXt, against transformers, MMSegmentation's heads and a restated ConvNeXt."""

import importlib.util
from functools import partial

import pytest
import torch
from torch import nn

from robustseg.models import UPerNet, load_segmentation_weights

from .parity import Case, Full, assert_same, misnormalised, normalised, randomise_, resized
from .reference_convnext import MMPRETRAIN, ORIGINAL, ConvNeXt

transformers = pytest.importorskip("transformers", reason="transformers not installed: pip install -e .[dev]")
HAS_MMSEG = all(importlib.util.find_spec(name) for name in ("mmcv", "mmengine", "mmseg"))
WIDTHS, DEPTHS, CLASSES = (8, 16, 24, 32), (1, 2, 1, 1), 5


def transformers_config(**changed):
    sizes = {"hidden_sizes": list(WIDTHS), "depths": list(DEPTHS), **changed}
    backbone = transformers.ConvNextConfig(out_features=["stage1", "stage2", "stage3", "stage4"], **sizes)
    heads = {"hidden_size": 16, "auxiliary_channels": 16, "auxiliary_in_channels": backbone.hidden_sizes[2]}
    return transformers.UperNetConfig(backbone_config=backbone, num_labels=CLASSES, **heads)


class Pieced(nn.Module):
    """A backbone and two heads from different places; normalised images in, logits at their size out."""

    def __init__(self, backbone, decode_head, auxiliary_head):
        super().__init__()
        self.backbone, self.decode_head, self.auxiliary_head = backbone, decode_head, auxiliary_head

    def forward(self, x):
        return resized(self.decode_head(self.backbone(x)), x, align_corners=False)


def pirat(conv_stem):
    """nmndeep/Robust-Segmentation: semseg/models/uperforseg.py has transformers' heads."""
    heads = transformers.UperNetForSemanticSegmentation(transformers_config())
    backbone = ConvNeXt(DEPTHS, WIDTHS, conv_stem=conv_stem)
    return randomise_(Pieced(backbone, heads.decode_head, heads.auxiliary_head))


def mmseg(names):
    from mmseg.registry import MODELS

    from . import mmseg_reference  # noqa: F401  registers the heads

    common = {"num_classes": CLASSES, "channels": 16, "norm_cfg": {"type": "BN"}, "align_corners": False}
    decode = {"type": "UPerHead", "in_channels": WIDTHS, "in_index": (0, 1, 2, 3), **common}
    auxiliary = {"type": "FCNHead", "in_channels": WIDTHS[2], "in_index": 2, "num_convs": 1, "concat_input": False}
    heads = (MODELS.build(head) for head in (decode, auxiliary | common))
    return randomise_(Pieced(ConvNeXt(DEPTHS, WIDTHS, names), *heads))


def from_transformers():
    net = randomise_(transformers.UperNetForSemanticSegmentation(transformers_config()))
    for name, parameter in net.named_parameters():
        if name.endswith("layer_scale_parameter"):
            nn.init.uniform_(parameter, 0.5, 1.5)
    return net


def ours(conv_stem=False, classes=CLASSES):
    arguments = {"backbone_args": {"dims": WIDTHS, "depths": DEPTHS}, "channels": 16}
    return misnormalised(UPerNet(classes, "convnext_tiny", conv_stem=conv_stem, **arguments))


def logits(net, images):
    found = net(images)
    return getattr(found, "logits", found)


def auxiliary(net, images):
    features = net.backbone(images)
    found = net.auxiliary_head(getattr(features, "feature_maps", features))
    return resized(found, images, align_corners=False)


def mmseg_wrapped(state):
    return {"meta": {"iter": 160000}, "state_dict": state, "optimizer": {"param_groups": [{"lr": 0.0001}]}}


def parallel(state):
    return {f"module.{key}": value for key, value in state.items()}


def case(name, layout, build, wrap, raw=False, conv_stem=False):
    settings = ()
    if raw:  # the other stem, and other classes
        config = "upernet_convnext_t_cvst" if conv_stem else "upernet_convnext_t"
        stem = ({"conv_stem": not conv_stem}, rf"conv_stem: {str(conv_stem).lower()} .*network/{config};")
        settings = (stem, ({"classes": 7}, r"5 classes, the model has 7.*head\.classifier.*aux_head\.2"))

    def seen(images):
        return images if raw else normalised(images)

    return Case(
        name,
        layout,
        build,
        lambda **changed: ours(**{"conv_stem": conv_stem, **changed}),
        sizes=((64, 96), (97, 131)),
        logits=lambda net, images: logits(net, seen(images)),
        auxiliary=lambda net, images: auxiliary(net, seen(images)),
        wrap=wrap,
        refuses=settings,
    )


TRANSFORMERS = "transformers UperNetForSemanticSegmentation with ConvNext"
MMSEG = "MMSegmentation UPerNet with ConvNeXt"
PIRAT = "PIR-AT (nmndeep/Robust-Segmentation) UPerNet with ConvNeXt"
CASES = [
    case("transformers", TRANSFORMERS, from_transformers, dict),
    case("pirat", PIRAT, partial(pirat, False), dict, raw=True),
    case("pirat_cvst", f"{PIRAT}-CvSt", partial(pirat, True), parallel, raw=True, conv_stem=True),
]
if HAS_MMSEG:
    CASES += [
        case("mmseg", MMSEG, partial(mmseg, MMPRETRAIN), mmseg_wrapped),
        case("facebookresearch", MMSEG, partial(mmseg, ORIGINAL), lambda state: {"state_dict": state}),
    ]


def full():
    """Published: 60 M parameters for ConvNeXt-T at 150 classes (Liu et al., CVPR 2022, table 4)."""
    config = transformers_config(hidden_sizes=[96, 192, 384, 768], depths=[3, 3, 9, 3])
    config.hidden_size, config.auxiliary_channels, config.num_labels = 512, 256, 150
    return transformers.UperNetForSemanticSegmentation(config)


FULL = [Full("convnext_t", full, lambda: UPerNet(150), published=60_242_636)]


def test_the_hubs_files_are_read(tmp_path):
    torch.manual_seed(0)
    reference = from_transformers()
    reference.save_pretrained(tmp_path)
    model = ours()
    load_segmentation_weights(model, tmp_path / "model.safetensors")
    assert_same(model, lambda images: logits(reference.double(), normalised(images)), 64, 64)
