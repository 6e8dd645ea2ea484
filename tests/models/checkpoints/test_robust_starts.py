"""Robust ImageNet classifiers as starts: the wrappings and names of their projects, and their normalisation."""

from __future__ import annotations

import hashlib
import logging
import re

import pytest
import timm
import torch
from timm.models.convnext import checkpoint_filter_fn
from torch import nn
from torchvision.models import resnet50, vgg
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from robustseg.models import FCN, Backbone, ModelError, PSPNet, SegmentationModel, Segmenter, UPerNet
from robustseg.models.checkpoints.classifiers import LAYOUTS, classifier_weights

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
DEPTHS, WIDTHS = (1, 2, 1, 1), (8, 16, 24, 32)
SMALL = {"depths": DEPTHS, "dims": WIDTHS}
RESNET = {"channels": [8, 16, 32, 64]}


class AttackerModel(nn.Module):
    """As the state dicts of MadryLab/robustness and microsoft/robust-models-transfer show it: ``attacker.py``."""

    def __init__(self, model, mean=MEAN, std=STD):
        super().__init__()
        self.normalizer = InputNormalize(mean, std)
        self.model = model
        self.attacker = nn.Module()
        self.attacker.normalize = InputNormalize(mean, std)
        self.attacker.model = model


class InputNormalize(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("new_mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("new_std", torch.tensor(std)[:, None, None])


class ImageNormalizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))


def prefixed(module, prefix):
    return {f"{prefix}{key}": value for key, value in module.state_dict().items()}


def resnet(randomise):
    return randomise(timm.create_model("resnet10t", num_classes=10, **RESNET)).eval()


WRAPPINGS = {
    "madry": lambda net: {"model": prefixed(AttackerModel(net), "module."), "epoch": 90, "optimizer": {"lr": 0.1}},
    "robustbench": lambda net: prefixed(ImageNormalizer(), "normalize.") | prefixed(net, "model."),
    "revisiting": lambda net: prefixed(ImageNormalizer(), "module.normalize.") | prefixed(net, "module.model."),
    "sequential": lambda net: nn.Sequential(ImageNormalizer(), net).state_dict(),
    "base_model": lambda net: prefixed(net, "module.base_model."),
    "timm": lambda net: {"state_dict": net.state_dict(), "epoch": 3, "arch": "resnet10t"},
    "compiled": lambda net: {"state_dict": prefixed(net, "module._orig_mod.")},
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_wrapped_classifiers_give_their_features_and_normalisation(name, randomise, tmp_path):
    reference = resnet(randomise)
    torch.save(WRAPPINGS[name](reference), tmp_path / "weights.pt")
    backbone = Backbone("resnet10t", None, weights=str(tmp_path / "weights.pt"), args=RESNET).eval()
    images = torch.rand(1, 3, 65, 64)
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices=2, intermediates_only=True)
        for found, wanted in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    stated = name in ("madry", "robustbench", "revisiting", "sequential")
    assert backbone.mean == (pytest.approx(MEAN) if stated else timm.models.get_pretrained_cfg("resnet10t").mean)
    assert backbone.std == (pytest.approx(STD) if stated else timm.models.get_pretrained_cfg("resnet10t").std)


def test_the_normalisation_reaches_the_model(randomise, tmp_path):
    torch.save(WRAPPINGS["madry"](resnet(randomise)), tmp_path / "robust.pt")
    network = PSPNet(4, "resnet10t", 16, 8, weights=str(tmp_path / "robust.pt"), backbone_args=RESNET)
    model = SegmentationModel(network)
    assert model.mean.flatten().tolist() == pytest.approx(MEAN)
    assert model.std.flatten().tolist() == pytest.approx(STD)


def test_what_was_done_is_logged(randomise, tmp_path, caplog):
    path = tmp_path / "robust.pt"
    torch.save(WRAPPINGS["madry"](resnet(randomise)), path)
    with caplog.at_level(logging.INFO, logger="robustseg"):
        Backbone("resnet10t", None, weights=str(path), args=RESNET)
    for words in (hashlib.sha256(path.read_bytes()).hexdigest(), "fc.bias, fc.weight", "0.4, 0.5, 0.6", "the file's"):
        assert words in caplog.text


def convnext(randomise_all):
    stages = [
        CNBlockConfig(width, following, depth)
        for width, following, depth in zip(WIDTHS, [*WIDTHS[1:], None], DEPTHS, strict=True)
    ]
    return randomise_all(ConvNeXt(stages, num_classes=10, stochastic_depth_prob=0.0)).eval()


@pytest.fixture
def randomise_all(randomise):
    """Values that differ in every tensor, so that swapped ones show; the layer scale of 1e-6 would hide the blocks."""

    def apply(module):
        for parameter in randomise(module).parameters():
            if parameter.dim() < 2 or parameter.shape[1:] == (1, 1):
                nn.init.uniform_(parameter, 0.5, 1.5)
        return module

    return apply


def test_torchvision_convnext(randomise_all, tmp_path):
    reference = convnext(randomise_all)
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    backbone = Backbone("convnext_tiny", None, weights=str(tmp_path / "weights.pth"), args=SMALL, levels=4).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        wanted, x = [], images
        for index, layer in enumerate(reference.features):
            x = layer(x)
            wanted += [x] if index % 2 else []
        for found, expected in zip(backbone(images), wanted, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def facebook_names(state):
    """The names that facebookresearch/ConvNeXt's ``models/convnext.py`` gives to timm's tensors."""
    renames = (
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"\.blocks\.", "."),
        (r"\.conv_dw\.", ".dwconv."),
        (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    )
    renamed = {}
    for key, value in state.items():
        for pattern, new in renames:
            key = re.sub(pattern, new, key)
        renamed[key] = value
    return renamed


def test_facebook_convnext(randomise_all, tmp_path):
    reference = randomise_all(timm.create_model("convnext_tiny", num_classes=10, **SMALL)).eval()
    state = facebook_names(reference.state_dict())
    assert {"downsample_layers.0.0.weight", "downsample_layers.3.1.bias", "stages.1.1.pwconv2.weight"} < state.keys()
    ours = classifier_weights(state).state
    theirs = checkpoint_filter_fn(dict(state), reference)
    assert ours.keys() == theirs.keys() == reference.state_dict().keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    torch.save({"model": state}, tmp_path / "weights.pth")
    backbone = Backbone("convnext_tiny", None, weights=str(tmp_path / "weights.pth"), args=SMALL).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices=2, intermediates_only=True)
        for found, wanted in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def conv_stem_classifier(randomise_all):
    """nmndeep/revisiting-at's ConvNeXt-T with ConvStem, ``ConvBlock1`` in ``utils_architecture.py``, at small size."""
    reference = timm.create_model("convnext_tiny", num_classes=10, **SMALL)
    reference.stem = nn.Module()
    reference.stem.stem = nn.Sequential(
        *(nn.Conv2d(3, WIDTHS[0] // 2, 3, 2, 1), timm.layers.LayerNorm2d(WIDTHS[0] // 2, eps=1e-6), nn.GELU()),
        *(nn.Conv2d(WIDTHS[0] // 2, WIDTHS[0], 3, 2, 1), timm.layers.LayerNorm2d(WIDTHS[0], eps=1e-6), nn.GELU()),
    )
    reference.stem.forward = reference.stem.stem.forward
    return randomise_all(reference).eval()


def test_conv_stem_of_the_robust_convnexts(randomise_all, tmp_path):
    reference = conv_stem_classifier(randomise_all)
    path = str(tmp_path / "weights.pth")
    torch.save({f"module.{key}": value for key, value in reference.state_dict().items()}, path)
    backbone = Backbone("convnext_tiny", None, weights=path, args=SMALL, conv_stem=True).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices=2, intermediates_only=True)
        for found, wanted in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert (backbone.mean, backbone.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    with pytest.raises(ModelError, match="set conv_stem: true"):
        Backbone("convnext_tiny", None, weights=path, args=SMALL)


@pytest.mark.slow
def test_torchvision_resnet_and_vgg(randomise, tmp_path):
    path = str(tmp_path / "weights.pth")
    reference = randomise(resnet50(num_classes=7)).eval()
    torch.save(reference.state_dict(), path)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found = Backbone("resnet50", None, weights=path).eval()(images)[-1]
        trunk = nn.Sequential(*list(reference.children())[:-2])
        torch.testing.assert_close(found, trunk(images), atol=1e-4, rtol=1e-4)
        reference = vgg.VGG(vgg.make_layers(vgg.cfgs["A"], batch_norm=True), num_classes=7, init_weights=False)
        # the classifier of 120 million values is left out anyway
        reference.classifier = nn.Sequential(nn.Linear(1, 1), nn.Identity(), nn.Identity(), nn.Linear(1, 1))
        reference.classifier.add_module("6", nn.Linear(1, 1))
        torch.save(randomise(reference).eval().state_dict(), path)
        found = Backbone("vgg11_bn", None, weights=path).eval()(images)[-1]
        torch.testing.assert_close(found, reference.features(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "xcit_nano_12_p16_224"])
def test_transformers_by_timm_names(name, tmp_path):
    args = {"img_size": [64, 64]} if name.startswith("vit") else {}
    reference = timm.create_model(name, num_classes=10, **args).eval()
    torch.save(
        {"state_dict": prefixed(ImageNormalizer(), "normalize.") | prefixed(reference, "model.")}, tmp_path / "w"
    )
    backbone = Backbone(name, None, weights=str(tmp_path / "w"), args=args).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices=2, norm=False, intermediates_only=True)
        for found, wanted in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert backbone.mean == pytest.approx(MEAN)


class LooksLikeASchedule:
    """Something that a checkpoint of MadryLab/robustness holds beside the weights."""


def refused(path, name="resnet10t", args=RESNET):
    with pytest.raises(ModelError) as caught:
        Backbone(name, None, weights=str(path), args=args)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_other_objects_beside_the_weights(randomise, tmp_path):
    content = WRAPPINGS["madry"](resnet(randomise)) | {"schedule": LooksLikeASchedule()}
    torch.save(content, tmp_path / "imagenet_linf_4.pt")
    message = refused(tmp_path / "imagenet_linf_4.pt")
    assert "LooksLikeASchedule" in message
    assert "torch.save" in message


def test_two_networks_in_one_file(randomise, tmp_path):
    state = prefixed(AttackerModel(resnet(randomise)), "module.")
    state["module.attacker.model.bn1.weight"] = torch.zeros_like(state["module.attacker.model.bn1.weight"])
    torch.save(state, tmp_path / "two.pt")
    message = refused(tmp_path / "two.pt")
    assert "two networks" in message
    assert "attacker.model.bn1.weight" in message


@pytest.mark.parametrize(
    "std", [torch.zeros(3), torch.tensor([1.0, float("nan"), 1.0]), torch.ones(4), torch.ones(3) * 1j]
)
def test_a_normalisation_that_is_none(std, randomise, tmp_path):
    state = prefixed(AttackerModel(resnet(randomise)), "module.")
    state["module.normalizer.new_std"] = std
    torch.save(state, tmp_path / "weights.pt")
    assert "normalizer.new_mean" in refused(tmp_path / "weights.pt")


def test_weights_that_diverged(randomise, tmp_path):
    state = resnet(randomise).state_dict()
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = float("inf")
    torch.save(state, tmp_path / "weights.pt")
    assert "not finite (layer2.0.conv1.weight)" in refused(tmp_path / "weights.pt")


def test_another_architecture_is_named_by_its_project(randomise_all, tmp_path):
    torch.save(convnext(randomise_all).state_dict(), tmp_path / "weights.pt")
    message = refused(tmp_path / "weights.pt")
    assert "read as torchvision ConvNeXt" in message
    assert "resnet10t" in message


def build_raw(kind, path, raw):
    if kind is UPerNet:
        return UPerNet(4, channels=8, weights=str(path), raw_images=raw, backbone_args=SMALL)
    args = {"depth": 1, "img_size": 32}
    return Segmenter(4, "vit_tiny_patch16_224", weights=str(path), raw_images=raw, backbone_args=args)


def classifier_of(kind):
    if kind is UPerNet:
        return timm.create_model("convnext_tiny", num_classes=10, **SMALL)
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, depth=1, img_size=32)


@pytest.mark.parametrize("kind", [UPerNet, Segmenter])
def test_raw_images_and_a_normalisation_in_the_file_contradict_each_other(kind, tmp_path, caplog):
    reference = classifier_of(kind)
    torch.save(prefixed(ImageNormalizer(), "normalize.") | prefixed(reference, "model."), tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"raw_images = true.*other\.pth.*mean \[0.4, 0.5, 0.6\].*raw_images: false"):
        build_raw(kind, tmp_path / "other.pth", raw=True)
    assert build_raw(kind, tmp_path / "other.pth", raw=False).image_mean == pytest.approx(MEAN)
    torch.save(reference.state_dict(), tmp_path / "plain.pth")
    with caplog.at_level(logging.INFO, logger="robustseg"):
        network = build_raw(kind, tmp_path / "plain.pth", raw=True)
    assert (network.image_mean, network.image_std) == ((0.0,) * 3, (1.0,) * 3)
    assert "mean [0.0, 0.0, 0.0], std [1.0, 1.0, 1.0], which are those of raw_images: true" in caplog.text


def test_raw_images_go_with_a_conv_stem_that_was_trained_on_them(randomise_all, tmp_path):
    torch.save(conv_stem_classifier(randomise_all).state_dict(), tmp_path / "weights.pth")
    network = UPerNet(
        4, channels=8, weights=str(tmp_path / "weights.pth"), conv_stem=True, raw_images=True, backbone_args=SMALL
    )
    assert network.image_mean == (0.0,) * 3


@pytest.mark.parametrize("size", [96, (64, 96)])
def test_position_embeddings_are_resized_as_timm_does(size, tmp_path, caplog):
    reference = classifier_of(Segmenter)
    torch.save({"model": reference.state_dict()}, tmp_path / "weights.pth")
    with caplog.at_level(logging.INFO, logger="robustseg"):
        args = {"depth": 1, "img_size": size}
        network = Segmenter(4, "vit_tiny_patch16_224", weights=str(tmp_path / "weights.pth"), backbone_args=args)
    other = timm.create_model("vit_tiny_patch16_224", num_classes=10, depth=1, img_size=size)
    expected = timm.models.vision_transformer.checkpoint_filter_fn(reference.state_dict(), other)["pos_embed"]
    found = network.backbone.body.model.pos_embed
    torch.testing.assert_close(found.detach(), expected.detach())
    assert found.shape[1] == 1 + (36 if size == 96 else 24)
    assert "position embeddings of 2x2 patches resized to" in caplog.text


def test_position_embeddings_of_another_width_or_no_grid_are_refused(tmp_path):
    state = classifier_of(Segmenter).state_dict()
    for shape in ((1, 5, 384), (1, 7, 192), (5, 192)):
        torch.save(state | {"pos_embed": torch.zeros(shape)}, tmp_path / "weights.pth")
        with pytest.raises(ModelError, match=r"pos\.embed is float32"):
            build_raw(Segmenter, tmp_path / "weights.pth", raw=False)


def test_a_segmentation_checkpoint_is_told_apart(tmp_path):
    own = SegmentationModel(FCN(4, "resnet10t", 16, 8, backbone_args=RESNET)).state_dict()
    theirs = {f"backbone.{key}": value for key, value in timm.create_model("resnet10t", **RESNET).state_dict().items()}
    for state, head in (
        (own, "aux_head"),
        ({f"model.{key}": value for key, value in own.items()}, "aux_head"),
        (theirs | {"classifier.4.weight": torch.ones(4, 8, 1, 1)}, "classifier"),
        (theirs | {"decode_head.conv_seg.weight": torch.ones(4, 8, 1, 1)}, "decode_head"),
    ):
        torch.save(state, tmp_path / "weights.pth")
        message = refused(tmp_path / "weights.pth")
        assert f"checkpoint of a segmentation network ({head})" in message
        assert "give it as model.init_weights" in message
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "weights.pth")
    assert "checkpoint of a segmentation" not in refused(tmp_path / "weights.pth")


def test_each_layout_has_a_name_and_is_tested():
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS) == 4
