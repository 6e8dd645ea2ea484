"""Checkpoints of Segmenter, against a restatement of rstrudel/segmenter and against MMSegmentation."""

import importlib.util

import pytest
import torch
from torch import nn

from robustseg.models import ModelError, SegmentationModel, Segmenter, load_segmentation_weights
from robustseg.models.checkpoints.recognise import LAYOUTS

from . import reference_segmenter
from .parity import assert_same, parameters, randomise_

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


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    return scaled_down_(randomise_(reference_segmenter.Segmenter(CLASSES, GRID, WIDTH)))


@pytest.fixture(scope="module")
def path(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("segmenter") / "checkpoint.pth"
    torch.save({"model": reference.state_dict(), "n_cls": CLASSES, "optimizer": {}, "epoch": 63}, path)
    return path


# as trained; others, for which position embeddings are resized; as many patches in another shape; padded
@pytest.mark.parametrize("size", [(64, 64), (96, 48), (32, 128), (97, 131), (33, 64)], ids=str)
def test_logits_and_gradients_are_the_references(reference, path, size):
    model = ours()
    assert load_segmentation_weights(model, path)["layout"] == "rstrudel/segmenter"
    double = reference.double()
    assert_same(model, lambda images: double((images - 0.5) / 0.5), *size)
    reference.float()
    classifier = parameters(reference.encoder.head)
    assert parameters(model) == parameters(reference) - classifier


def test_pirats_checkpoints_have_the_same_names_and_take_images_as_they_are(reference, tmp_path):
    torch.save(reference.state_dict(), tmp_path / "best_model_ckpt.pth")
    model = ours(raw_images=True)
    load_segmentation_weights(model, tmp_path / "best_model_ckpt.pth")
    double = reference.double()
    assert_same(model, double, 64, 64)
    reference.float()


def test_only_its_own_layout_recognises_it(reference):
    assert [known.name for known in LAYOUTS if known.recognises(reference.state_dict())] == ["rstrudel/segmenter"]


def test_another_size_of_images_is_named(path):
    with pytest.raises(ModelError, match=r"checkpoint\.pth.*images of 64×64: set img_size: 64"):
        load_segmentation_weights(ours(grid=3), path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"norm_eps": 1e-6}, "norm_eps: 1e-05"),
        ({"position_resize": "bicubic"}, "position_resize: bilinear"),
        ({"crop_padding": False}, "crop_padding: true"),
    ],
    ids=str,
)
def test_what_the_shapes_do_not_show_is_asked_for(changed, words, path):
    with pytest.raises(ModelError, match=rf"needs {words} .*segmenter_vit_s;"):
        load_segmentation_weights(ours(**changed), path)


def test_a_distilled_encoder_is_not_taken_for_a_plain_one(reference, tmp_path):
    torch.save(reference.state_dict() | {"encoder.dist_token": torch.zeros(1, 1, WIDTH)}, tmp_path / "model.pth")
    with pytest.raises(ModelError, match="does not fit the network"):
        load_segmentation_weights(ours(), tmp_path / "model.pth")


@pytest.fixture(scope="module")
def mmseg():
    if not HAS_MMSEG:
        pytest.skip("mmseg not installed: pip install --no-deps -r tests/references.txt")
    from . import mmseg_reference

    torch.manual_seed(0)
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


@pytest.mark.parametrize("size", [(64, 64), (96, 48), (97, 131), (70, 64)], ids=str)
def test_logits_and_gradients_are_mmsegs(mmseg, size, tmp_path):
    from . import mmseg_reference

    torch.save(mmseg_reference.wrapped(mmseg.float().state_dict()), tmp_path / "iter_160000.pth")
    model = ours(norm_eps=1e-6, position_resize="bicubic", crop_padding=False)
    assert load_segmentation_weights(model, tmp_path / "iter_160000.pth")["layout"] == "MMSegmentation Segmenter"
    double = mmseg.double()
    assert_same(model, lambda images: mmseg_reference.logits_of(double, (images - 0.5) / 0.5), *size)
    assert parameters(model) == parameters(mmseg) + WIDTH  # a bias of the patches, of zeros
    assert [known.name for known in LAYOUTS if known.recognises(mmseg.state_dict())] == ["MMSegmentation Segmenter"]


def test_full_size_has_the_same_tensors():
    """ViT-S/16 at 512×512 and ADE20K."""
    with torch.device("meta"):
        reference = reference_segmenter.Segmenter(150, 32, 384, depth=12)
        network = Segmenter(150, backbone_args={"img_size": 512})
    layout = next(layout for layout in LAYOUTS if layout.recognises(reference.state_dict()))
    converted = layout.convert(reference.state_dict(), network)
    own = network.state_dict()
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in own.items()}
    assert parameters(network) == parameters(reference) - parameters(reference.encoder.head) == 26_033_964
