"""Checkpoints of ucbdrive/dla, against a restatement of its network: no package has its segmentation."""

from functools import partial

import pytest
import timm
import torch
from torch.nn import functional as F

from robustseg.models import DLASeg, SegmentationModel, load_segmentation_weights
from tests.helpers.cases import partly

from .parity import Case, misnormalised, normalised_by
from .reference_dla import dla_levels, dla_seg
from .reference_tensors import Restated, Tensors

MEAN, STD = (0.290101, 0.328081, 0.286964), (0.182954, 0.186566, 0.184475)
CHANNELS = {"dla34": (4, 6, 8, 12, 16, 20), "dla46_c": (4, 6, 8, 8, 12, 16), "dla102": (4, 6, 8, 12, 16, 20)}
"""Reduced; level2 and level3 of dla46_c are of one width, as in the full network."""


def reference(name="dla34", down_ratio=2):
    return Restated(lambda tensors, images: dla_seg(tensors, images, name, CHANNELS[name], 5, down_ratio), 128)


def build(name="dla34", down_ratio=2, **arguments):
    return DLASeg(5, name, down_ratio, backbone_args={"channels": list(CHANNELS[name])}, **arguments)


def logits(network, images):
    return network(normalised_by(images, MEAN, STD))


def wrapped(state):
    return {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}


def unused(network):
    """The classifier, and the projections of trees of trees: in files of the authors, and not used."""
    keys = {key for key, _ in network.named_parameters()}
    return sum(
        value.numel()
        for key, value in network.named_parameters()
        if key.startswith("base.fc.")
        or ("project" in key and f"{key.split('.project')[0]}.tree1.conv1.weight" not in keys)
    )


def case(name, down_ratio, refuses=()):
    return Case(
        f"{name} {down_ratio}",
        "ucbdrive/dla DLASeg, normalised as for Cityscapes",
        partial(reference, name, down_ratio),
        lambda **changed: misnormalised(build(**{"name": name, "down_ratio": down_ratio, **changed})),
        sizes=((64, 96),),
        logits=logits,
        wrap=wrapped,
        read=lambda found: F.log_softmax(found, dim=1),
        surplus=unused,
        refuses=refuses,
    )


CASES = [
    case(
        "dla34",
        2,
        refuses=(
            ({"down_ratio": 4}, r"ucbdrive/dla.*unexpected.*decoder\.steps\.3.*upsampling\.weight"),
            ({"name": "dla102"}, r"ucbdrive/dla.*missing.*backbone\.body"),
        ),
    ),
    *(case(*key) for key in (("dla34", 4), ("dla34", 8), ("dla46_c", 2), ("dla102", 2))),
]
FULL = []


def test_other_sizes_are_those_of_an_image_padded_with_the_mean_colour(tmp_path):
    model = SegmentationModel(build()).eval()
    torch.save(wrapped(reference().state_dict()), tmp_path / "dla.pth")
    load_segmentation_weights(model, tmp_path / "dla.pth")
    images = torch.rand(1, 3, 33, 47)
    padded = torch.tensor(MEAN).view(1, 3, 1, 1).repeat(1, 1, 64, 64)
    padded[..., :33, :47] = images
    with torch.no_grad():
        torch.testing.assert_close(model(images), model(padded)[..., :33, :47], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", partly(["dla34", "dla46_c", "dla60", "dla102"], ("dla34", "dla46_c").__contains__))
def test_parameters_are_the_references_and_timms(name):
    with torch.device("meta"):
        network = DLASeg(19, name)
        tensors = Tensors()
        dla_seg(tensors, torch.zeros(1, 3, 64, 64), name)
        classifier = timm.create_model(name)
    counts = {key: value.numel() for key, value in tensors.items() if "running" not in key}
    for key in list(counts):
        if "project" in key and f"{key.split('.project')[0]}.tree1.conv1.weight" not in tensors:
            del counts[key]  # in files of the authors, and not used
    own = sum(parameter.numel() for parameter in network.parameters())
    assert own == sum(value for key, value in counts.items() if not key.startswith("base.fc."))
    published = sum(parameter.numel() for parameter in classifier.parameters())
    assert published == sum(value for key, value in counts.items() if key.startswith("base."))


def test_classification_weights_of_the_authors_are_a_start(tmp_path):
    tensors = Tensors()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = dla_levels(tensors, images, "dla34", CHANNELS["dla34"], prefix="")
        assert "level3.project.0.weight" in tensors
        torch.save(dict(tensors), tmp_path / "dla34.pth")
        backbone = build(weights=str(tmp_path / "dla34.pth")).backbone.eval()
        for found, wanted in zip(backbone(images), expected[1:], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_timms_classification_weights_are_a_start(tmp_path):
    state = timm.create_model("dla34", channels=list(CHANNELS["dla34"])).state_dict()
    torch.save(state, tmp_path / "dla34.pth")
    backbone = build(weights=str(tmp_path / "dla34.pth")).backbone
    assert torch.equal(backbone.body.level5.project[0].weight, state["level5.project.0.weight"])


@pytest.mark.parametrize("down_ratio", [2, 4, 16])
def test_an_image_of_any_size_trains(down_ratio):
    network = build(down_ratio=down_ratio).train()
    assert network(torch.rand(1, 3, 33, 47)).shape == (1, 5, 33, 47)
    assert not network.upsampling.weight.requires_grad
    assert all(layer.weight.requires_grad for step in network.decoder.steps for layer in step.upsamplings)
