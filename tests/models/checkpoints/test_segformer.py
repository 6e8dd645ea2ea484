"""Checkpoints of SegFormer, against transformers, MMSegmentation and a restatement of NVlabs/SegFormer."""

import importlib.util

import pytest
import torch
from torch import nn

from robustseg.models import ModelError, SegFormer, load_segmentation_weights
from robustseg.models.checkpoints.recognise import LAYOUTS

from . import reference_nvlabs
from .parity import assert_same, misnormalised, normalised, parameters, randomise_, resized

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

    return mmseg_reference.logits_of(network, images)


# layout, reference, its logits, settings here
CASES = {
    "nvlabs": (
        "NVlabs/SegFormer",
        lambda: reference_nvlabs.SegFormer(CLASSES, WIDTHS, HEADS, DEPTHS, 16),
        lambda network, images: network(images),
        {},
    ),
    "transformers": (
        "transformers 5 SegformerForSemanticSegmentation",
        from_transformers,
        lambda network, images: resized(network(images).logits, images, align_corners=False),
        {"norm_eps": 1e-5},
    ),
    "mmseg": ("MMSegmentation SegFormer", from_mmseg, mmseg_logits, {"norm_eps": 1e-6, "projection_bn": True}),
}


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


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    torch.manual_seed(0)
    if request.param == "mmseg" and not HAS_MMSEG:
        pytest.skip("mmseg not installed: pip install --no-deps -r tests/references.txt")
    layout, build, logits, settings = CASES[request.param]
    reference = scaled_down_(randomise_(build()))
    path = tmp_path_factory.mktemp("segformer") / "model.pth"
    torch.save({"meta": {"epoch": 1}, "state_dict": reference.state_dict()}, path)
    return layout, reference.double(), logits, settings, path


@pytest.mark.parametrize("size", [(64, 96), (97, 131)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_logits_and_gradients_are_the_references(case, size):
    layout, reference, logits, settings, path = case
    model = ours(**settings)
    assert load_segmentation_weights(model, path)["layout"] == layout
    assert_same(model, lambda images: logits(reference, normalised(images)), *size)
    unused = {name: parameter for name, parameter in reference.named_parameters() if "decode_head.conv_seg" in name}
    surplus = sum(value.numel() for value in unused.values()) if layout == "NVlabs/SegFormer" else 0
    assert parameters(model) == parameters(reference) - surplus


def test_only_its_own_layout_recognises_it(case):
    layout, reference, *_ = case
    assert [known.name for known in LAYOUTS if known.recognises(reference.state_dict())] == [layout]


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
    reference.double()
    assert_same(
        model, lambda images: resized(reference(normalised(images)).logits, images, align_corners=False), 64, 96
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "norm_eps: 1e-05"),
        ({"norm_eps": 1e-6}, "norm_eps: 1e-05"),
        ({"norm_eps": 1e-5, "projection_bn": True}, "projection_bn: false"),
    ],
    ids=str,
)
def test_what_the_shapes_do_not_show_is_asked_for(settings, words, tmp_path):
    torch.save(from_transformers().state_dict(), tmp_path / "model.pth")
    with pytest.raises(ModelError, match=rf"model\.pth.*needs {words}.*segformer_b0_transformers;"):
        load_segmentation_weights(ours(**settings), tmp_path / "model.pth")


def test_the_authors_epsilons_are_called_null(tmp_path):
    torch.save(reference_nvlabs.SegFormer(CLASSES, WIDTHS, HEADS, DEPTHS, 16).state_dict(), tmp_path / "model.pth")
    with pytest.raises(ModelError, match=r"needs norm_eps: null.*segformer_b0;"):
        load_segmentation_weights(ours(norm_eps=1e-6), tmp_path / "model.pth")


def test_a_damaged_file_is_named_and_nothing_loaded(tmp_path):
    state = reference_nvlabs.SegFormer(CLASSES, WIDTHS, HEADS, DEPTHS, 16).state_dict()
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


def test_full_size_has_transformers_tensors():
    widths, depths = [64, 128, 320, 512], [3, 4, 6, 3]
    with torch.device("meta"):
        reference = from_transformers(hidden_sizes=widths, depths=depths, decoder_hidden_size=768)
        network = SegFormer(CLASSES, "mit_b2", norm_eps=1e-5)
    layout = next(layout for layout in LAYOUTS if layout.recognises(reference.state_dict()))
    converted = layout.convert(reference.state_dict(), network)
    own = network.state_dict()
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in own.items()}
    assert parameters(network) == parameters(reference)
