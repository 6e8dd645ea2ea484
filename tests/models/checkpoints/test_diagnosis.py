"""What the message says of a file that belongs to another network of the same kind, or to none."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision.models import resnet, segmentation

from robustseg.cli.main import main
from robustseg.models import (
    FCN,
    DeepLabV3,
    ModelError,
    PSPNet,
    SegmentationModel,
    Segmenter,
    TorchvisionNetwork,
    UPerNet,
    load_segmentation_weights,
)
from robustseg.models.catalogue import catalogue
from robustseg.models.checkpoints.reading import Reading
from robustseg.models.checkpoints.recognise import LAYOUTS, explain, fit_names
from tests.models.checkpoints.reference_semseg import Reference

SMALL = {"channels": [8, 16, 32, 64]}
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def on_meta(build, *args, **arguments):
    with torch.device("meta"):
        return build(*args, **arguments)


@cache
def torchvision(name, aux=True):
    build = getattr(segmentation, name)
    return on_meta(build, weights=None, weights_backbone=None, num_classes=5, aux_loss=aux).state_dict()


def why(network, state):
    model = SegmentationModel(network).to("meta")
    return explain(model, fit_names(model, Reading(Path("file.pth"), state)))


@pytest.mark.parametrize(
    ("network", "name", "config"),
    [(FCN, "fcn_resnet101", "fcn_r101"), (DeepLabV3, "deeplabv3_resnet101", "deeplabv3_r101")],
)
def test_a_deeper_resnet_is_named_with_its_configuration(network, name, config):
    reason = why(on_meta(network, 5), torchvision(name))
    assert "23 blocks in network.backbone.body.layer3 where 6 are expected: a ResNet-101" in reason
    assert f"use --config network/{config}" in reason
    with pytest.raises(ModelError, match=rf"use {network.__name__}, as in network/{config}\."):
        why(on_meta(PSPNet, 5), torchvision(name))


def test_inspect_names_the_configuration_of_the_depth(tmp_path, capsys):
    state = {key: torch.zeros(value.shape, dtype=torch.uint8) for key, value in torchvision("fcn_resnet101").items()}
    torch.save(state, tmp_path / "r101.pth")
    assert main(["inspect", str(tmp_path / "r101.pth"), "--network", "fcn_r50"]) == 1
    text = capsys.readouterr().out
    assert "loads into   network/fcn_r101" in text
    assert "23 blocks in network.backbone.body.layer3 where 6 are expected: a ResNet-101" in text
    assert "use --config network/fcn_r101" in text


RESNETS = [layout for layout in LAYOUTS if "_r18" in layout.config or "_r50" in layout.config]


@pytest.mark.parametrize("layout", RESNETS, ids=lambda layout: layout.name)
def test_every_configuration_that_is_named_exists_and_has_its_depth(layout):
    for depth in (18, 34) if "_r18" in layout.config else (50, 101, 152):
        stages = enumerate(DEPTHS[depth], 1)
        keys = [f"layer{stage}.{block}.conv2" for stage, blocks in stages for block in range(blocks)]
        config, _, advice = layout.config_of([*keys, *(["layer1.0.conv3"] if depth >= 50 else [])]).partition(" ")
        backbone = advice.removeprefix("with backbone: ") or catalogue()[config].init_args["backbone"]
        assert timm.is_model(backbone)
        assert f"resnet{depth}" in backbone
        assert config in catalogue()


def test_layouts_without_an_advice_of_depth_keep_theirs():
    assert {layout.config_of([]) for layout in LAYOUTS} == {layout.config for layout in LAYOUTS}


def test_semseg_of_another_depth():
    keys = on_meta(Reference, "pspnet", layers=DEPTHS[101], classes=5, width=8).state_dict()
    (layout,) = [layout for layout in LAYOUTS if layout.recognises(keys)]
    assert layout.config_of(keys) == "pspnet_r101_semseg"


@pytest.mark.parametrize("name", ["fcn_resnet101", "deeplabv3_resnet50"])
def test_torchvision_networks_are_told_their_name(name):
    assert f"set name: {name}" in why(on_meta(TorchvisionNetwork, 5, "fcn_resnet50"), torchvision(name))


@pytest.mark.parametrize("kind", ["theirs", "adapter", "own"])
def test_an_auxiliary_head_on_one_side_only(kind):
    def network(aux):
        if kind == "adapter":
            return on_meta(TorchvisionNetwork, 5, "fcn_resnet50", aux_head=aux)
        return on_meta(FCN, 5, aux_head=aux)

    def state(aux):
        if kind == "own":
            return {f"model.{key}": value for key, value in SegmentationModel(network(aux)).state_dict().items()}
        return torchvision("fcn_resnet50", aux)

    assert "no auxiliary head, and the network has one: set aux_head: false" in why(network(True), state(False))
    assert "an auxiliary head, and the network has none: set aux_head: true" in why(network(False), state(True))
    assert why(network(True), state(True)) is None


def test_the_missing_auxiliary_head_may_be_left_out_when_training_starts(tmp_path):
    def build(aux):
        return SegmentationModel(FCN(5, "resnet10t", 16, 8, aux_head=aux, backbone_args=SMALL))

    torch.save(build(False).state_dict(), tmp_path / "file.pth")
    load_segmentation_weights(build(True), tmp_path / "file.pth", ["aux_head"])
    with pytest.raises(ModelError, match=r"file\.pth does not fit .* 7 missing .* set aux_head: false in .*inspect"):
        load_segmentation_weights(build(True), tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("network", "classifier"),
    [
        (lambda: FCN(5), lambda: resnet.resnet50()),
        (lambda: PSPNet(5, "resnet10t"), lambda: timm.create_model("resnet18")),
        (lambda: UPerNet(5), lambda: timm.create_model("convnext_tiny", num_classes=1000)),
        (lambda: Segmenter(5), lambda: timm.create_model("vit_small_patch16_224")),
    ],
    ids=["torchvision", "another ResNet", "ConvNeXt", "ViT"],
)
@pytest.mark.parametrize("prefix", ["", "module.model."])
def test_a_classifier_is_told_apart(network, classifier, prefix):
    state = {f"{prefix}{key}": value for key, value in on_meta(classifier).state_dict().items()}
    reason = why(on_meta(network), state)
    assert "a classifier of 1000 classes of whole images" in reason
    assert "model.network.init_args.weights" in reason


def test_a_classifier_for_a_network_of_a_library():
    reason = why(on_meta(TorchvisionNetwork, 5), on_meta(resnet.resnet50).state_dict())
    assert "a classifier of 1000 classes" in reason
    assert "init_args.weights" not in reason


def test_another_size_of_a_convnext():
    small, tiny = ({"depths": (1, 1, blocks, 1), "dims": (8, 16, 24, 32)} for blocks in (4, 2))
    state = SegmentationModel(on_meta(UPerNet, 5, channels=8, backbone_args=small)).state_dict()
    reason = why(on_meta(UPerNet, 5, channels=8, backbone_args=tiny), state)
    assert "4 blocks in network.backbone.body.stages_2.blocks where 2 are expected" in reason


def test_what_the_names_do_not_tell_is_left_to_the_counts():
    network = on_meta(FCN, 5, "resnet10t", 16, 8)
    state = SegmentationModel(network).state_dict()
    assert why(network, state | {"stray": torch.ones(1)}) is None
    assert why(network, {"weight": torch.ones(2)}) is None
    assert why(network, nn.Linear(3, 4).state_dict()) is None
