"""Checkpoints of torchvision's FCN and DeepLabV3 over ResNets, compared with torchvision itself."""

from functools import partial

import pytest
import torch
from torchvision.models import resnet, segmentation
from torchvision.models.segmentation.deeplabv3 import _deeplabv3_resnet
from torchvision.models.segmentation.fcn import _fcn_resnet

from robustseg.models import FCN, DeepLabV3, ModelError, load_segmentation_weights
from robustseg.models.checkpoints.recognise import LAYOUTS

from .parity import Case, Full, misnormalised, normalised, randomise_

LAYERS = (1, 1, 2, 2)
WEIGHTS = {
    (FCN, 50): segmentation.FCN_ResNet50_Weights.DEFAULT,
    (FCN, 101): segmentation.FCN_ResNet101_Weights.DEFAULT,
    (DeepLabV3, 50): segmentation.DeepLabV3_ResNet50_Weights.DEFAULT,
    (DeepLabV3, 101): segmentation.DeepLabV3_ResNet101_Weights.DEFAULT,
}


def theirs(build):
    backbone = resnet.ResNet(resnet.Bottleneck, list(LAYERS), replace_stride_with_dilation=[False, True, True])
    return randomise_(build(backbone, 5, True))


def ours(kind, **arguments):
    return misnormalised(kind(5, "resnet50", backbone_args={"layers": LAYERS}, **arguments))


def wrapped(state):
    """A state dict as references/segmentation/train.py writes it, from DistributedDataParallel or not."""
    return {"model": state, "optimizer": {}, "lr_scheduler": {}, "epoch": 29}


CASES = [
    Case(
        kind.__name__,
        f"torchvision {kind.__name__}-ResNet",
        partial(theirs, build),
        partial(ours, kind),
        sizes=((33, 47), (65, 81)),
        logits=lambda reference, images: reference(normalised(images))["out"],
        auxiliary=lambda reference, images: reference(normalised(images))["aux"],
        wrap=wrapped,
        refuses=(
            ({"align_corners": True}, f"needs.*align_corners: false.*{kind.__name__.lower()}_r50;"),
            ({"output_stride": 16}, f"needs.*output_stride: 8.*{kind.__name__.lower()}_r50;"),
            ({"aux_head": False}, r"model\.pth \(read as torchvision.*unexpected.*aux_head"),
        ),
    )
    for kind, build in ((FCN, _fcn_resnet), (DeepLabV3, _deeplabv3_resnet))
]
FULL = [
    Full(
        f"{kind.__name__} {depth}",
        partial(
            getattr(segmentation, f"{kind.__name__.lower()}_resnet{depth}"),
            **{"weights": None, "weights_backbone": None, "num_classes": 21, "aux_loss": True},
        ),
        partial(kind, 21, f"resnet{depth}"),
        weights.meta["num_params"],
    )
    for (kind, depth), weights in WEIGHTS.items()
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_without_auxiliary_head(case, tmp_path):
    state = {key: value for key, value in case.build().state_dict().items() if not key.startswith("aux_classifier.")}
    torch.save(state, tmp_path / "no_aux.pth")
    assert load_segmentation_weights(case.ours(aux_head=False), tmp_path / "no_aux.pth")["layout"] == case.layout
    with pytest.raises(ModelError, match=r"no_aux\.pth \(read as torchvision.*missing.*aux_head"):
        load_segmentation_weights(case.ours(), tmp_path / "no_aux.pth")


def test_the_normalisation_is_that_of_the_published_weights():
    layouts = {layout.name: layout for layout in LAYOUTS}
    for (kind, _), weights in WEIGHTS.items():
        layout, crop = layouts[f"torchvision {kind.__name__}-ResNet"], weights.transforms()
        assert (tuple(crop.mean), tuple(crop.std)) == (layout.mean, layout.std)
