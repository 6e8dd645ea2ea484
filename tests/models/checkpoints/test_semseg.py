"""Checkpoints of hszhao/semseg and of DDC-AT, which builds on it, compared with their networks written out."""

import pytest
import torch

from robustseg.models import DeepLabV3, ModelError, PSPNet, SegmentationModel, load_segmentation_weights
from robustseg.models.checkpoints.recognise import LAYOUTS

from .parity import assert_same, misnormalised, normalised, parameters, randomise_
from .reference_semseg import Reference, wrapped

LAYERS = (2, 2, 3, 2)
SMALL = {"stem_type": "deep", "stem_width": 8, "layers": LAYERS, "channels": (8, 16, 32, 64)}
FULL = {"stem_type": "deep", "stem_width": 64}
DILATION = {"align_corners": True, "first_block_dilated": True}
ASPP = {"rates": [6, 12, 18], "refine": False, "aux_kernel": 1}
CASES = {
    "hszhao/semseg PSPNet": ("pspnet", False),
    "DDC-AT PSPNet": ("pspnet", True),
    "dvlab-research/Robust-Semantic-Segmentation DeepLabV3": ("deeplabv3", False),
    "DDC-AT DeepLabV3": ("deeplabv3", True),
}


def ours(kind, classes=5, args=SMALL, channels=None, **changed):
    arguments = DILATION | {"backbone_args": args}
    if kind == "pspnet":
        return SegmentationModel(PSPNet(classes, "resnet50", 8, channels or 64, aux_channels=32, **arguments | changed))
    arguments |= ASPP | changed
    return SegmentationModel(DeepLabV3(classes, "resnet50", 8, channels or 32, aux_channels=32, **arguments))


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    kind, ddcat = CASES[request.param]
    reference = randomise_(Reference(kind, ddcat, LAYERS, width=8))
    torch.save(wrapped(reference.state_dict()), tmp_path / "train_epoch_100.pth")
    return request.param, kind, reference, tmp_path / "train_epoch_100.pth"


@pytest.mark.parametrize("size", [(65, 81), (97, 131), (40, 56)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_logits_and_gradients_are_those_of_the_reference(case, size):
    name, kind, reference, path = case
    # the normalisation comes with the layout, whatever the model had
    model = misnormalised(ours(kind).network)
    assert load_segmentation_weights(model, path)["layout"] == name
    assert_same(model, lambda images: reference.double()(normalised(images)), *size)


def test_auxiliary_logits_are_those_of_the_reference(case):
    _, kind, reference, path = case
    model = ours(kind)
    load_segmentation_weights(model, path)
    images = torch.rand(1, 3, 65, 81)
    with torch.no_grad():
        expected = reference.auxiliary(normalised(images))
        _, aux_logits = model.eval().forward_with_aux(images)
    torch.testing.assert_close(aux_logits, expected, rtol=1e-4, atol=1e-4)


def test_only_its_own_layout_recognises_it(case):
    name, _, reference, _ = case
    assert [layout.name for layout in LAYOUTS if layout.recognises(reference.state_dict())] == [name]


@pytest.mark.parametrize(
    ("kind", "changed", "words"),
    [
        ("pspnet", {"align_corners": False}, "align_corners: true"),
        ("pspnet", {"first_block_dilated": False}, "first_block_dilated: true"),
        ("deeplabv3", {"rates": [12, 24, 36]}, "rates: [6, 12, 18]"),
        ("deeplabv3", {"rates": None}, "rates: [6, 12, 18]"),
        ("deeplabv3", {"refine": True}, "refine: false"),
        ("deeplabv3", {"aux_kernel": 3}, "aux_kernel: 1"),
    ],
    ids=lambda value: str(value),
)
def test_what_the_shapes_do_not_show_is_asked_for(kind, changed, words, tmp_path):
    torch.save(wrapped(Reference(kind, False, LAYERS, width=8).state_dict()), tmp_path / "model.pth")
    model = ours(kind, **changed)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"model\.pth.*needs") as caught:
        load_segmentation_weights(model, tmp_path / "model.pth")
    assert words in str(caught.value)
    assert f"{kind}_r50_semseg" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_another_number_of_classes_is_refused_and_all_but_the_classifiers_can_be_had(case):
    _, kind, _, path = case
    model = ours(kind, classes=3)
    with pytest.raises(ModelError, match="trained with 5 classes, the model has 3") as caught:
        load_segmentation_weights(model, path)
    classifiers = str(caught.value).split("init_without: [")[1].split("]")[0].split(", ")
    before = model.state_dict()[f"network.{classifiers[0]}.weight"].clone()
    stem = model.state_dict()["network.backbone.body.conv1.0.weight"].clone()
    load_segmentation_weights(model, path, without=classifiers)
    assert torch.equal(model.state_dict()[f"network.{classifiers[0]}.weight"], before)
    assert not torch.equal(model.state_dict()["network.backbone.body.conv1.0.weight"], stem)


def test_another_stride_is_asked_for(tmp_path):
    torch.save(Reference("pspnet", False, LAYERS, width=8).state_dict(), tmp_path / "model.pth")
    network = PSPNet(5, "resnet50", 16, 64, aux_channels=32, backbone_args=SMALL, **DILATION)
    with pytest.raises(ModelError, match="needs output_stride: 8"):
        load_segmentation_weights(SegmentationModel(network), tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("kind", "layers", "backbone", "channels"),
    [
        ("pspnet", (3, 4, 6, 3), "resnet50", 512),
        ("pspnet", (3, 4, 23, 3), "resnet101", 512),
        ("deeplabv3", (3, 4, 6, 3), "resnet50", 256),
    ],
)
def test_full_size_has_the_same_tensors(kind, layers, backbone, channels):
    with torch.device("meta"):
        reference = Reference(kind, False, layers, classes=19)
        network = (PSPNet if kind == "pspnet" else DeepLabV3)(
            19, backbone, 8, channels, backbone_args=FULL, **DILATION, **({} if kind == "pspnet" else ASPP)
        )
    layout = next(layout for layout in LAYOUTS if layout.recognises(reference.state_dict()))
    converted = layout.convert(reference.state_dict(), network)
    own = network.state_dict()
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in own.items()}
    assert parameters(network) == parameters(reference)
