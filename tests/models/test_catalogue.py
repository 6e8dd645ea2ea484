"""The networks that ``robustseg models`` lists are those of configs/network."""

from __future__ import annotations

import pytest
import torch

from robustseg.models import FCN, IMAGENET_MEAN, IMAGENET_STD, ModelError, Network
from robustseg.models.catalogue import catalogue, classes, config_name, describe_normalisation, facts, find_variant
from robustseg.models.checkpoints.recognise import LAYOUTS
from tests.helpers.paths import ROOT

FILES = sorted((ROOT / "configs/network").glob("*.yaml"))


def test_the_catalogue_is_the_folder():
    assert {name: variant.text for name, variant in catalogue().items()} == {
        path.stem: path.read_text(encoding="utf-8") for path in FILES
    }


def test_every_class_has_a_variant():
    assert {variant.network for variant in catalogue().values()} == classes().keys() - {"ExternalNetwork"}


@pytest.mark.slow
def test_every_layouts_configuration_takes_it():
    for layout in LAYOUTS:
        variant = find_variant(config_name(layout))
        assert variant.network == layout.network.__name__
        if " " in layout.config:
            continue  # with a setting that it names
        assert layout.name in facts(variant).loads, f"{layout.config} does not load {layout.name}"


def test_facts_of_a_network():
    found = facts(find_variant("pspnet_r50_semseg"))
    # hszhao/semseg's PSPNet-50 of 21 classes
    assert found.parameters == sum(p.numel() for p in find_variant("pspnet_r50_semseg").build(21).parameters())
    assert 49e6 < found.parameters < 52e6
    assert (found.stride, found.logits_stride, found.normalisation) == (8, 8, "ImageNet")
    assert "hszhao/semseg PSPNet" in found.loads
    assert "hszhao/semseg PSPNet" not in facts(find_variant("pspnet_r50")).loads


def test_networks_are_built_without_memory():
    network = find_variant("fcn_r50").build(3)
    assert isinstance(network, FCN)
    assert network.num_classes == 3
    assert all(tensor.device.type == "meta" for tensor in network.state_dict().values())


@pytest.mark.parametrize(
    ("mean", "std", "order", "words"),
    [
        (IMAGENET_MEAN, IMAGENET_STD, "rgb", "ImageNet"),
        ((0.5,) * 3, (0.5,) * 3, "rgb", "-1 to 1"),
        ((0.0,) * 3, (1.0,) * 3, "bgr", "0 to 1, BGR"),
        ((0.48, 0.46, 0.41), (1 / 255,) * 3, "bgr", "0 to 255, mean off, BGR"),
        ((0.1, 0.2, 0.3), (1.0, 1.0, 2.0), "rgb", "mean [0.1, 0.2, 0.3], std [1.0, 1.0, 2.0]"),
    ],
)
def test_normalisation_in_words(mean, std, order, words):
    class Net(Network):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    network = Net(2)
    network.image_mean, network.image_std, network.channel_order = mean, std, order
    assert describe_normalisation(network) == words


@pytest.mark.parametrize(
    ("name", "word"),
    [("pspnet_r05", "pspnet_r50"), ("PSPNet", "pspnet_r50"), ("upernet", "upernet_"), ("xyzzy", "lists all")],
)
def test_unknown_names_give_suggestions(name, word):
    with pytest.raises(ModelError, match=word):
        find_variant(name)
