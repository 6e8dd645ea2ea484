"""Checkpoints of MMSegmentation's PSPNet, DeepLabV3 and FCN over ResNets, compared with MMSegmentation itself."""

import logging
import pickle
from functools import partial

import pytest
import torch

from robustseg.models import FCN, DeepLabV3, ModelError, PSPNet, load_segmentation_weights
from robustseg.models.checkpoints.recognise import LAYOUTS

from .mmseg_reference import build, logits_of, wrapped
from .parity import Case, Full, assert_same, misnormalised, normalised, resized

HEADS = {
    PSPNet: {"type": "PSPHead", "pool_scales": (1, 2, 3, 6)},
    DeepLabV3: {"type": "ASPPHead", "dilations": (1, 12, 24, 36)},
    FCN: {"type": "FCNHead", "num_convs": 2, "concat_input": True},
}
SETTINGS = {
    PSPNet: {},
    DeepLabV3: {"project_kernel": 3, "refine": False},
    FCN: {"convs": 2, "concat_input": True},
}
BACKBONES = {"r18": ("ResNetV1c", 18, "ResNet-18 or -34"), "r50": ("ResNetV1c", 50, "ResNet-50, -101 or -152")}
BACKBONES["r50b"] = ("ResNet", 50, BACKBONES["r50"][2])


def config(kind, backbone="r50", base=8, classes=5, align_corners=False, depth=None, **changed):
    """``configs/_base_/models/*_r50-d8.py`` of mmseg, whose base is 64."""
    resnet, usual_depth, _ = BACKBONES[backbone]
    last = base * (8 if backbone == "r18" else 32)
    norm = {"type": "BN", "requires_grad": True}
    common = {"num_classes": classes, "norm_cfg": norm, "align_corners": align_corners, "dropout_ratio": 0.1}
    return {
        "type": "EncoderDecoder",
        "backbone": {
            **{"type": resnet, "depth": depth or usual_depth, "base_channels": base, "stem_channels": base},
            **{"num_stages": 4, "out_indices": (0, 1, 2, 3), "dilations": (1, 1, 2, 4), "strides": (1, 2, 1, 1)},
            **{"norm_cfg": norm, "norm_eval": False, "style": "pytorch", "contract_dilation": True, **changed},
        },
        "decode_head": {**HEADS[kind], "in_channels": last, "in_index": 3, "channels": last // 4, **common},
        "auxiliary_head": {
            **{"type": "FCNHead", "in_channels": last // 2, "in_index": 2, "channels": last // 8, "num_convs": 1},
            **{"concat_input": False, **common},
        },
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }


def ours(kind, backbone="r50", base=8, classes=5, name=None, **changed):
    last = base * (8 if backbone == "r18" else 32)
    stem = {} if backbone == "r50b" else {"stem_type": "deep", "stem_width": base // 2}
    arguments = {
        "backbone_args": {**stem, "channels": (base, 2 * base, 4 * base, 8 * base)},
        **{"channels": last // 4, "aux_channels": last // 8, "dilate_once": backbone == "r18"},
        **SETTINGS[kind],
    }
    network = kind(classes, name or ("resnet18" if backbone == "r18" else "resnet50"), **arguments | changed)
    return misnormalised(network)


ASKED = [
    (PSPNet, "r18", {"dilate_once": False}, "dilate_once: true"),
    (PSPNet, "r50", {"first_block_dilated": True}, "first_block_dilated: false"),
    (PSPNet, "r50", {"output_stride": 16}, "output_stride: 8"),
    (DeepLabV3, "r50", {"rates": [6, 12, 18]}, r"rates: \[12, 24, 36\]"),
    (DeepLabV3, "r50", {"project_kernel": 1}, "project_kernel: 3"),
    (DeepLabV3, "r50", {"refine": True}, "refine: false"),
    (FCN, "r50", {"convs": 1}, "convs: 2"),
    (FCN, "r50", {"concat_input": False}, "concat_input: true"),
]


def theirs(kind, backbone):
    return build(config(kind, backbone, **({"stem_channels": 64} if backbone == "r50b" else {})))


def logits(reference, images):
    return logits_of(reference, normalised(images))


def auxiliary(reference, images):
    return resized(reference.auxiliary_head(reference.backbone(normalised(images))), images, align_corners=False)


CASES = [
    Case(
        f"{kind.__name__} {backbone}",
        f"MMSegmentation {kind.__name__} over {BACKBONES[backbone][2]}",
        partial(theirs, kind, backbone),
        partial(ours, kind, backbone),
        sizes=((65, 81), (97, 131)),
        logits=logits,
        auxiliary=auxiliary,
        wrap=wrapped,
        refuses=tuple(
            (changed, rf"needs.*{words}.*{kind.__name__.lower()}_{backbone}_mmseg;")
            for *key, changed, words in ASKED
            if key == [kind, backbone]
        ),
    )
    for kind in HEADS
    for backbone in BACKBONES
]
FULL = [
    Full(
        kind.__name__,
        partial(lambda kind: build(config(kind, base=64, classes=19, depth=101)), kind),
        partial(kind, 19, "resnet101c", channels=512, **SETTINGS[kind]),
    )
    for kind in HEADS
]


def test_the_file_holds_objects_that_are_passed_over(tmp_path):
    torch.save(wrapped({}), tmp_path / "iter_80000.pth")
    with pytest.raises(pickle.UnpicklingError, match="Unsupported global"):
        torch.load(tmp_path / "iter_80000.pth", weights_only=True)


def test_aligned_corners_are_the_networks_setting_and_reported(tmp_path, caplog):
    reference = build(config(PSPNet, "r18", align_corners=True))
    torch.save(wrapped(reference.state_dict()), tmp_path / "iter_80000.pth")
    model = ours(PSPNet, "r18", align_corners=True)
    with caplog.at_level(logging.INFO, "robustseg.models.checkpoints"):
        load_segmentation_weights(model, tmp_path / "iter_80000.pth")
    assert "769x769" in caplog.text
    assert "this network has align_corners: true" in caplog.text
    assert_same(model, partial(logits, reference.double()), 65, 81)


def test_other_networks_over_the_same_backbones_are_not_taken_for_these(tmp_path):
    """ResNetV1d pools otherwise where it is dilated, though its tensors fit timm's; DeepLabV3+ has more parts."""
    pooled = build(config(PSPNet, type="ResNetV1d"))
    plus = config(DeepLabV3)
    plus["decode_head"] |= {"type": "DepthwiseSeparableASPPHead", "c1_in_channels": 32, "c1_channels": 8}
    for index, reference in enumerate((pooled, build(plus))):
        assert not [layout.name for layout in LAYOUTS if layout.recognises(reference.state_dict())]
        torch.save(wrapped(reference.state_dict()), tmp_path / f"{index}.pth")
        with pytest.raises(ModelError, match="does not fit the network"):
            load_segmentation_weights(ours(PSPNet, name="resnet50d"), tmp_path / f"{index}.pth")
