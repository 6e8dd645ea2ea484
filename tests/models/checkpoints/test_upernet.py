"""Checkpoints of UPerNet over ConvNeXt, against transformers, MMSegmentation's heads and a restated ConvNeXt."""

import importlib.util

import pytest
import torch
from torch import nn

from robustseg.models import ModelError, SegmentationModel, UPerNet, load_segmentation_weights
from robustseg.models.checkpoints.recognise import LAYOUTS

from .parity import assert_same, misnormalised, normalised, parameters, randomise_, resized
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


class FromTransformers(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = randomise_(transformers.UperNetForSemanticSegmentation(transformers_config()))
        for name, parameter in self.net.named_parameters():
            if name.endswith("layer_scale_parameter"):
                nn.init.uniform_(parameter, 0.5, 1.5)

    def forward(self, x):
        return self.net(x).logits


def identity(images):
    return images


# layout, reference, its normalisation, how its files are wrapped
CASES = {
    "transformers": (
        "transformers UperNetForSemanticSegmentation with ConvNext",
        FromTransformers,
        normalised,
        lambda state: {key.removeprefix("net."): value for key, value in state.items()},
    ),
    "mmseg": (
        "MMSegmentation UPerNet with ConvNeXt",
        lambda: mmseg(MMPRETRAIN),
        normalised,
        lambda state: {"meta": {"iter": 160000}, "state_dict": state, "optimizer": {"param_groups": [{"lr": 0.0001}]}},
    ),
    "facebookresearch": (
        "MMSegmentation UPerNet with ConvNeXt",
        lambda: mmseg(ORIGINAL),
        normalised,
        lambda state: {"state_dict": state},
    ),
    "pirat": ("PIR-AT (nmndeep/Robust-Segmentation) UPerNet with ConvNeXt", lambda: pirat(False), identity, identity),
    "pirat_cvst": (
        "PIR-AT (nmndeep/Robust-Segmentation) UPerNet with ConvNeXt-CvSt",
        lambda: pirat(True),
        identity,
        lambda state: {f"module.{key}": value for key, value in state.items()},
    ),
}


def ours(conv_stem=False, **changed):
    arguments = {"backbone_args": {"dims": WIDTHS, "depths": DEPTHS}, "channels": 16, **changed}
    network = UPerNet(CLASSES, "convnext_tiny", conv_stem=conv_stem, **arguments)
    return misnormalised(network)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    torch.manual_seed(0)
    layout, build, normalise, wrap = CASES[request.param]
    if request.param in ("mmseg", "facebookresearch") and not HAS_MMSEG:
        pytest.skip("mmseg not installed: pip install --no-deps -r tests/references.txt")
    reference = build()
    path = tmp_path_factory.mktemp("upernet") / "model.pth"
    torch.save(wrap(reference.state_dict()), path)
    return layout, reference.double(), normalise, wrap, path


@pytest.mark.parametrize("size", [(64, 96), (97, 131)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_logits_and_gradients_are_the_references(case, size):
    layout, reference, normalise, _, path = case
    model = ours("CvSt" in layout)
    assert load_segmentation_weights(model, path)["layout"] == layout
    assert_same(model, lambda images: reference(normalise(images)), *size)
    assert parameters(model) == parameters(reference)


def test_auxiliary_logits_are_the_references(case):
    layout, reference, normalise, _, path = case
    model = ours("CvSt" in layout)
    load_segmentation_weights(model, path)
    images = torch.rand(1, 3, 64, 80, dtype=torch.float64)
    net = getattr(reference, "net", reference)
    with torch.no_grad():
        features = net.backbone(normalise(images))
        expected = net.auxiliary_head(getattr(features, "feature_maps", features))
        _, found = model.double().eval().forward_with_aux(images)
    torch.testing.assert_close(found, resized(expected, images, align_corners=False), rtol=1e-6, atol=1e-6)


def test_only_its_own_layout_recognises_it(case):
    layout, reference, *_ = case
    state = reference.state_dict()
    keys = [key.removeprefix("net.") for key in state]
    assert [known.name for known in LAYOUTS if known.recognises(keys)] == [layout]


def test_the_hubs_files_are_read(tmp_path):
    torch.manual_seed(0)
    reference = FromTransformers()
    reference.net.save_pretrained(tmp_path)
    model = ours()
    load_segmentation_weights(model, tmp_path / "model.safetensors")
    assert_same(model, lambda images: reference.double()(normalised(images)), 64, 64)


@pytest.mark.parametrize("conv_stem", [False, True])
def test_the_other_stem_is_asked_for(conv_stem, tmp_path):
    torch.save(pirat(conv_stem).state_dict(), tmp_path / "model.pth")
    config = "upernet_convnext_t_cvst" if conv_stem else "upernet_convnext_t"
    with pytest.raises(ModelError, match=rf"conv_stem: {str(conv_stem).lower()} .*network/{config};"):
        load_segmentation_weights(ours(not conv_stem), tmp_path / "model.pth")


def test_other_classes_are_named(tmp_path):
    torch.save(pirat(True).state_dict(), tmp_path / "model.pth")
    network = UPerNet(7, "convnext_tiny", 16, conv_stem=True, backbone_args={"dims": WIDTHS, "depths": DEPTHS})
    with pytest.raises(ModelError, match=r"5 classes, the model has 7.*head\.classifier.*aux_head\.2"):
        load_segmentation_weights(SegmentationModel(network), tmp_path / "model.pth")


def test_full_size_has_the_same_tensors():
    """Published: 60 M parameters for ConvNeXt-T at 150 classes (Liu et al., CVPR 2022, table 4)."""
    config = transformers_config(hidden_sizes=[96, 192, 384, 768], depths=[3, 3, 9, 3])
    config.hidden_size, config.auxiliary_channels, config.num_labels = 512, 256, 150
    with torch.device("meta"):
        reference = transformers.UperNetForSemanticSegmentation(config)
        network = UPerNet(150)
    layout = next(layout for layout in LAYOUTS if layout.recognises(reference.state_dict()))
    converted = layout.convert(reference.state_dict(), network)
    own = network.state_dict()
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in own.items()}
    assert parameters(network) == parameters(reference) == 60_242_636
