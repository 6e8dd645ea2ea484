"""Checkpoints of SegFormer, against transformers, MMSegmentation and a restatement of NVlabs/SegFormer."""

import importlib.util
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from robustseg.models import ModelError, SegFormer, load_segmentation_weights
from robustseg.models.checkpoints.recognise import LAYOUTS

from . import reference_nvlabs
from .parity import Case, Full, assert_same, misnormalised, normalised, parameters, randomise_, resized

transformers = pytest.importorskip("transformers", reason="transformers not installed: pip install -e .[dev]")
HAS_MMSEG = all(importlib.util.find_spec(name) for name in ("mmcv", "mmengine", "mmseg"))
WIDTHS, HEADS, DEPTHS, CLASSES = (8, 16, 40, 64), (1, 2, 5, 8), (1, 2, 1, 1), 5


def from_transformers(**changed):
    sizes = {"hidden_sizes": list(WIDTHS), "depths": list(DEPTHS), "decoder_hidden_size": 16, **changed}
    config = transformers.SegformerConfig(num_attention_heads=list(HEADS), num_labels=CLASSES, **sizes)
    return transformers.SegformerForSemanticSegmentation(config)


def from_mmseg():
    from . import mmseg_reference

    config = {
        "type": "EncoderDecoder",
        "backbone": {
            **{"type": "MixVisionTransformer", "embed_dims": 8, "num_layers": DEPTHS, "num_heads": HEADS},
            **{"patch_sizes": (7, 3, 3, 3), "sr_ratios": (8, 4, 2, 1), "mlp_ratio": 4, "qkv_bias": True},
        },
        "decode_head": {
            **{"type": "SegformerHead", "in_channels": WIDTHS, "in_index": (0, 1, 2, 3), "channels": 16},
            **{"num_classes": CLASSES, "norm_cfg": {"type": "BN"}, "align_corners": False},
        },
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }
    return mmseg_reference.build(config)


def mmseg_logits(network, images):
    from . import mmseg_reference

    return mmseg_reference.logits_of(network, normalised(images))


def transformers_logits(network, images):
    return resized(network(normalised(images)).logits, images, align_corners=False)


def from_nvlabs():
    return reference_nvlabs.SegFormer(CLASSES, WIDTHS, HEADS, DEPTHS, 16)


def build(make):
    return scaled_down_(randomise_(make()))


def ours(**changed):
    network = SegFormer(CLASSES, channels=16, backbone_args={"embed_dims": WIDTHS, "depths": DEPTHS}, **changed)
    return misnormalised(network)


def scaled_down_(network):
    """Make what LayerNorms get small, so that the epsilon in them shows."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size in ((7, 7), (3, 3)) and module.groups == 1:
            module.weight.data *= 0.05
            module.bias.data *= 0.05
    return network


COMMON = {"sizes": ((64, 96), (97, 131)), "wrap": lambda state: {"meta": {"epoch": 1}, "state_dict": state}}
CASES = [
    Case(
        "nvlabs",
        "NVlabs/SegFormer",
        partial(build, from_nvlabs),
        ours,
        surplus=lambda reference: parameters(reference.decode_head.conv_seg),
        refuses=(({"norm_eps": 1e-6}, r"needs norm_eps: null.*segformer_b0;"),),
        **COMMON,
    ),
    Case(
        "transformers",
        "transformers 5 SegformerForSemanticSegmentation",
        partial(build, from_transformers),
        lambda **changed: ours(**{"norm_eps": 1e-5, **changed}),
        logits=transformers_logits,
        refuses=tuple(
            (changed, f"needs {words}.*segformer_b0_transformers;")
            for changed, words in (
                ({"norm_eps": None}, "norm_eps: 1e-05"),
                ({"norm_eps": 1e-6}, "norm_eps: 1e-05"),
                ({"projection_bn": True}, "projection_bn: false"),
            )
        ),
        **COMMON,
    ),
]
if HAS_MMSEG:
    ours_of_mmseg = partial(ours, norm_eps=1e-6, projection_bn=True)
    made = Case("mmseg", "MMSegmentation SegFormer", partial(build, from_mmseg), ours_of_mmseg, **COMMON)
    CASES.append(replace(made, logits=mmseg_logits))
FULL = [
    Full(
        "mit_b2",
        lambda: from_transformers(hidden_sizes=[64, 128, 320, 512], depths=[3, 4, 6, 3], decoder_hidden_size=768),
        lambda: SegFormer(CLASSES, "mit_b2", norm_eps=1e-5),
    )
]


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_the_hubs_files_have_older_names(suffix, tmp_path):
    from safetensors.torch import load_file

    torch.manual_seed(0)
    reference = scaled_down_(randomise_(from_transformers()))
    reference.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in state
    assert [known.name for known in LAYOUTS if known.recognises(state)] == [
        "transformers SegformerForSemanticSegmentation"
    ]
    if suffix == "bin":
        path = tmp_path / "pytorch_model.bin"
        torch.save(state, path)
    model = ours(norm_eps=1e-5)
    assert load_segmentation_weights(model, path)["layout"] == "transformers SegformerForSemanticSegmentation"
    assert_same(model, partial(transformers_logits, reference.double()), 64, 96)


def test_a_damaged_file_is_named_and_nothing_loaded(tmp_path):
    state = from_nvlabs().state_dict()
    del state["backbone.block2.1.attn.kv.weight"]
    state["decode_head.linear_c3.proj.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "model.pth")
    model = ours()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"stages_1\.blocks\.1\.attn\.kv\.weight.*head\.projections\.2"):
        load_segmentation_weights(model, tmp_path / "model.pth")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("size", "published"), enumerate((3.8, 13.7, 27.5, 47.3, 64.1, 84.7)))
def test_full_sizes_have_the_published_numbers_of_parameters(size, published):
    """In millions, at 150 classes: Xie et al., NeurIPS 2021, table 1a."""
    with torch.device("meta"):
        count = parameters(SegFormer(150, f"mit_b{size}"))
    assert count / 1e6 == pytest.approx(published, abs=0.06)
