"""Checkpoints of Segmenter, against a restatement of rstrudel/segmenter and against MMSegmentation."""

import importlib.util

import pytest
import torch
from torch import nn

from robustseg.models import ModelError, SegmentationModel, Segmenter, load_segmentation_weights

from . import reference_segmenter
from .parity import Case, Full, assert_same, parameters, randomise_

HAS_MMSEG = all(importlib.util.find_spec(name) for name in ("mmcv", "mmengine", "mmseg"))
CLASSES, GRID, WIDTH = 5, 4, 128


def ours(grid=GRID, **changed):
    sizes = {"img_size": 16 * grid, "embed_dim": WIDTH, "depth": 2, "num_heads": WIDTH // 64}
    return SegmentationModel(Segmenter(CLASSES, "vit_small_patch16_224", backbone_args=sizes, **changed))


def scaled_down_(network):
    """Make what the first LayerNorms get small, so that the epsilon in them shows."""
    for name, parameter in network.named_parameters():
        if name.endswith(("pos_embed", "cls_token", "patch_embed.proj.weight", "patch_embed.proj.bias")):
            parameter.data *= 0.05
    return network


def build():
    return scaled_down_(randomise_(reference_segmenter.Segmenter(CLASSES, GRID, WIDTH)))


def from_mmseg():
    from . import mmseg_reference

    config = {
        "type": "EncoderDecoder",
        "backbone": {
            **{"type": "VisionTransformer", "img_size": (64, 64), "patch_size": 16, "embed_dims": WIDTH},
            **{"num_layers": 2, "num_heads": 2, "final_norm": True, "with_cls_token": True},
            **{"norm_cfg": {"type": "LN", "eps": 1e-6, "requires_grad": True}, "interpolate_mode": "bicubic"},
        },
        "decode_head": {
            **{"type": "SegmenterMaskTransformerHead", "in_channels": WIDTH, "channels": WIDTH, "num_layers": 2},
            **{"num_heads": 2, "embed_dims": WIDTH, "num_classes": CLASSES, "dropout_ratio": 0.0},
        },
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }
    network = mmseg_reference.build(config)
    nn.init.normal_(network.backbone.pos_embed, std=0.5)
    nn.init.normal_(network.backbone.cls_token, std=0.5)
    return scaled_down_(network)


def mmseg_case():
    from . import mmseg_reference

    return Case(
        "mmseg",
        "MMSegmentation Segmenter",
        from_mmseg,
        lambda: ours(norm_eps=1e-6, position_resize="bicubic", crop_padding=False),
        sizes=((64, 64), (96, 48), (97, 131), (70, 64)),
        logits=lambda reference, images: mmseg_reference.logits_of(reference, (images - 0.5) / 0.5),
        wrap=mmseg_reference.wrapped,
        surplus=lambda reference: -WIDTH,  # a bias of the patches, of zeros
    )


def classifier(reference):
    return parameters(reference.encoder.head)


CASES = [
    Case(
        "rstrudel",
        "rstrudel/segmenter",
        build,
        ours,
        # as trained; others, for which position embeddings are resized; as many patches in another shape; padded
        sizes=((64, 64), (96, 48), (32, 128), (97, 131), (33, 64)),
        logits=lambda reference, images: reference((images - 0.5) / 0.5),
        wrap=lambda state: {"model": state, "n_cls": CLASSES, "optimizer": {}, "epoch": 63},
        surplus=classifier,
        refuses=(
            ({"grid": 3}, r"model\.pth.*images of 64×64: set img_size: 64"),
            ({"norm_eps": 1e-6}, "needs norm_eps: 1e-05 .*segmenter_vit_s;"),
            ({"position_resize": "bicubic"}, "needs position_resize: bilinear .*segmenter_vit_s;"),
            ({"crop_padding": False}, "needs crop_padding: true .*segmenter_vit_s;"),
        ),
    ),
    *([mmseg_case()] if HAS_MMSEG else []),
]
FULL = [
    Full(
        "ViT-S/16 at 512×512 and ADE20K",
        lambda: reference_segmenter.Segmenter(150, 32, 384, depth=12),
        lambda: Segmenter(150, backbone_args={"img_size": 512}),
        published=26_033_964,
        surplus=classifier,
    )
]


def test_pirats_checkpoints_have_the_same_names_and_take_images_as_they_are(tmp_path):
    reference = build()
    torch.save(reference.state_dict(), tmp_path / "best_model_ckpt.pth")
    model = ours(raw_images=True)
    load_segmentation_weights(model, tmp_path / "best_model_ckpt.pth")
    assert_same(model, reference.double(), 64, 64)


def test_a_distilled_encoder_is_not_taken_for_a_plain_one(tmp_path):
    torch.save(build().state_dict() | {"encoder.dist_token": torch.zeros(1, 1, WIDTH)}, tmp_path / "model.pth")
    with pytest.raises(ModelError, match="does not fit the network"):
        load_segmentation_weights(ours(), tmp_path / "model.pth")
