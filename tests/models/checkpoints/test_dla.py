"""Checkpoints of ucbdrive/dla, against a restatement of its network: no package has its segmentation."""

import pytest
import timm
import torch
from torch.nn import functional as F

from robustseg.models import DLASeg, ModelError, SegmentationModel, load_segmentation_weights
from robustseg.models.checkpoints.recognise import LAYOUTS
from tests.helpers.cases import partly

from .reference_dla import dla_levels, dla_seg
from .reference_tensors import Tensors

MEAN, STD = (0.290101, 0.328081, 0.286964), (0.182954, 0.186566, 0.184475)
CHANNELS = {"dla34": (4, 6, 8, 12, 16, 20), "dla46_c": (4, 6, 8, 8, 12, 16), "dla102": (4, 6, 8, 12, 16, 20)}
"""Reduced; level2 and level3 of dla46_c are of one width, as in the full network."""


def normalised(images):
    return (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def reference_state(name="dla34", down_ratio=2):
    tensors = Tensors()
    with torch.no_grad():
        dla_seg(tensors, torch.randn(1, 3, 128, 128), name, CHANNELS[name], 5, down_ratio)
    return tensors


def build(name="dla34", down_ratio=2, **arguments):
    return DLASeg(5, name, down_ratio, backbone_args={"channels": list(CHANNELS[name])}, **arguments)


def save(tensors, path):
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in tensors.items()}}, path)
    return path


@pytest.mark.parametrize(
    ("name", "down_ratio"), [("dla34", 2), ("dla34", 4), ("dla34", 8), ("dla46_c", 2), ("dla102", 2)]
)
def test_logits_and_gradients_are_the_references(name, down_ratio, tmp_path):
    tensors = reference_state(name, down_ratio)
    model = SegmentationModel(build(name, down_ratio)).eval()
    info = load_segmentation_weights(model, save(tensors, tmp_path / "dla.pth"))
    assert "ucbdrive/dla" in info["layout"]
    model.double()
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64, requires_grad=True)
    expected = dla_seg(tensors.double(), normalised(images), name, CHANNELS[name], 5, down_ratio)
    logits = model(images)
    found = F.log_softmax(logits, dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert 0.3 < logits.std() < 30
    target = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * target).sum(), images)[0]
    torch.testing.assert_close(torch.autograd.grad((found * target).sum(), images)[0], wanted, rtol=1e-4, atol=1e-4)


def test_other_sizes_are_those_of_an_image_padded_with_the_mean_colour(tmp_path):
    model = SegmentationModel(build()).eval()
    load_segmentation_weights(model, save(reference_state(), tmp_path / "dla.pth"))
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


def test_only_its_own_layout_recognises_it():
    assert [layout.network for layout in LAYOUTS if layout.recognises(list(reference_state()))] == [DLASeg]


@pytest.mark.parametrize("down_ratio", [2, 4, 16])
def test_an_image_of_any_size_trains(down_ratio):
    network = build(down_ratio=down_ratio).train()
    assert network(torch.rand(1, 3, 33, 47)).shape == (1, 5, 33, 47)
    assert not network.upsampling.weight.requires_grad
    assert all(layer.weight.requires_grad for step in network.decoder.steps for layer in step.upsamplings)


def with_another_ratio(path):
    return build(down_ratio=4), save(reference_state(), path)


def of_another_architecture(path):
    return build("dla102"), save(reference_state(), path)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (with_another_ratio, ["ucbdrive/dla", "unexpected", "decoder.steps.3", "upsampling.weight"]),
        (of_another_architecture, ["ucbdrive/dla", "missing", "backbone.body"]),
    ],
)
def test_other_checkpoints_are_refused(prepare, words, tmp_path):
    network, path = prepare(tmp_path / "dla.pth")
    with pytest.raises(ModelError) as caught:
        load_segmentation_weights(SegmentationModel(network), path)
    for word in [*words, str(path)]:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"down_ratio": 3}, ["down_ratio = 3", "2, 4, 8 or 16"]),
        ({"down_ratio": 1}, ["down_ratio = 1"]),
        ({"backbone": "resnet18"}, ["resnet18", "dla34"]),
        ({"backbone": "dla35"}, ["dla35", "did you mean"]),
        ({"backbone_args": {"out_indices": [1]}}, ["backbone_args", "out_indices"]),
    ],
)
def test_bad_arguments_name_the_key(arguments, words):
    with pytest.raises(ModelError) as caught:
        DLASeg(4, **arguments)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
