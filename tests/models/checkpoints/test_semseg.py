"""Checkpoints of hszhao/semseg and of DDC-AT, which builds on it, compared with their networks written out."""

from functools import partial

import pytest
import torch

from robustseg.models import DeepLabV3, ModelError, PSPNet, load_segmentation_weights

from .parity import Case, Full, misnormalised, normalised, randomise_
from .reference_semseg import Reference, wrapped

LAYERS = (2, 2, 3, 2)
SMALL = {"stem_type": "deep", "stem_width": 8, "layers": LAYERS, "channels": (8, 16, 32, 64)}
FULL_STEM = {"stem_type": "deep", "stem_width": 64}
DILATION = {"align_corners": True, "first_block_dilated": True}
NETWORKS = {
    "pspnet": (PSPNet, 64, {}),
    "deeplabv3": (DeepLabV3, 32, {"rates": [6, 12, 18], "refine": False, "aux_kernel": 1}),
}


def ours(kind, classes=5, output_stride=8, **changed):
    network, channels, settings = NETWORKS[kind]
    arguments = {"aux_channels": 32, "backbone_args": SMALL, **DILATION, **settings, **changed}
    return misnormalised(network(classes, "resnet50", output_stride, channels, **arguments))


def refused(kind):
    asked = [
        ({"align_corners": False}, "align_corners: true"),
        ({"first_block_dilated": False}, "first_block_dilated: true"),
        ({"output_stride": 16}, "output_stride: 8"),
    ]
    if kind == "deeplabv3":
        asked += [({"rates": rates}, r"rates: \[6, 12, 18\]") for rates in ([12, 24, 36], None)]
        asked += [({"refine": True}, "refine: false"), ({"aux_kernel": 3}, "aux_kernel: 1")]
    rows = [(changed, rf"needs.*{words}.*{kind}_r50_semseg") for changed, words in asked]
    return (*rows, ({"classes": 3}, "trained with 5 classes, the model has 3"))


def unused(reference):
    """Of DDC-AT: the second classifier, and that of the masks."""
    return sum(value.numel() for key, value in reference.named_parameters() if key.startswith(("cls2.", "mask1.")))


def full(kind, layers, backbone, channels):
    _, _, settings = NETWORKS[kind]
    network = partial(NETWORKS[kind][0], 19, backbone, 8, channels, backbone_args=FULL_STEM, **DILATION, **settings)
    return Full(f"{kind} {backbone}", partial(Reference, kind, False, layers, classes=19), network)


CASES = [
    Case(
        layout,
        layout,
        partial(lambda kind, ddcat: randomise_(Reference(kind, ddcat, LAYERS, width=8)), kind, ddcat),
        partial(ours, kind),
        sizes=((65, 81), (97, 131), (40, 56)),
        auxiliary=lambda reference, images: reference.auxiliary(normalised(images)),
        wrap=wrapped,
        surplus=unused,
        refuses=refused(kind) if not ddcat else (),
    )
    for layout, kind, ddcat in (
        ("hszhao/semseg PSPNet", "pspnet", False),
        ("DDC-AT PSPNet", "pspnet", True),
        ("dvlab-research/Robust-Semantic-Segmentation DeepLabV3", "deeplabv3", False),
        ("DDC-AT DeepLabV3", "deeplabv3", True),
    )
]
FULL = [
    full("pspnet", (3, 4, 6, 3), "resnet50", 512),
    full("pspnet", (3, 4, 23, 3), "resnet101", 512),
    full("deeplabv3", (3, 4, 6, 3), "resnet50", 256),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_but_the_classifiers_can_be_had(case, tmp_path):
    torch.save(case.wrap(case.build().state_dict()), tmp_path / "train_epoch_100.pth")
    model = case.ours(classes=3)
    with pytest.raises(ModelError, match="trained with 5 classes, the model has 3") as caught:
        load_segmentation_weights(model, tmp_path / "train_epoch_100.pth")
    classifiers = str(caught.value).split("init_without: [")[1].split("]")[0].split(", ")
    before = model.state_dict()[f"network.{classifiers[0]}.weight"].clone()
    stem = model.state_dict()["network.backbone.body.conv1.0.weight"].clone()
    load_segmentation_weights(model, tmp_path / "train_epoch_100.pth", without=classifiers)
    assert torch.equal(model.state_dict()[f"network.{classifiers[0]}.weight"], before)
    assert not torch.equal(model.state_dict()["network.backbone.body.conv1.0.weight"], stem)
