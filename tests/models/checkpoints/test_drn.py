"""Checkpoints of fyu/drn, against a restatement of its network: no package has it."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from robustseg.models import DRN, DRNSeg, ModelError
from robustseg.models.checkpoints.layouts.drn import DRN_C, DRN_D
from tests.helpers.cases import partly

from .parity import Case, misnormalised, normalised_by
from .reference_drn import drn_features, drn_seg
from .reference_tensors import Restated, Tensors

WIDTH = 4
MEAN, STD = (0.290101, 0.328081, 0.286964), (0.182954, 0.186566, 0.184475)
PUBLISHED = {
    **{"drn_d_22": 16.4, "drn_d_38": 26.5, "drn_d_54": 35.8, "drn_d_105": 54.8},
    **{"drn_c_26": 21.1, "drn_c_42": 31.2, "drn_c_58": 41.6},
}
"""Million parameters of the classification networks, from the project's README."""


def reference(name, torch_up):
    return Restated(lambda tensors, images: drn_seg(tensors, images, name, WIDTH, 5, torch_up), 64)


def ours(name="drn_d_22", upsampling="fixed", classes=5):
    return misnormalised(DRNSeg(classes, name, WIDTH, upsampling))


def logits(network, images):
    """The reference's are of a multiple of 8 in height and width."""
    return network(normalised_by(images, MEAN, STD))[..., : images.shape[2], : images.shape[3]]


def wrapped(state):
    content = {f"module.{key}": value for key, value in state.items()}
    return {"epoch": 3, "arch": "drn_d_22", "state_dict": content, "best_prec1": 0.5}


def unused(network):
    """A projection of drn_c_58's ninth layer, of whose result nothing is made."""
    return sum(value.numel() for key, value in network.named_parameters() if "base.9.0.down" in key)


def case(name, torch_up=False, refuses=()):
    return Case(
        f"{name} {torch_up}",
        (DRN_C if "_c_" in name else DRN_D).name,
        partial(reference, name, torch_up),
        lambda **changed: ours(**{"name": name, "upsampling": "bilinear" if torch_up else "fixed", **changed}),
        # the reference interpolates to multiples of 8, where corners are not the image's
        sizes=((48, 64),) if torch_up else ((48, 64), (33, 47)),
        logits=logits,
        wrap=wrapped,
        read=lambda found: F.log_softmax(found, dim=1),
        surplus=unused,
        refuses=refuses,
    )


CASES = [
    case(
        "drn_d_22",
        refuses=(
            ({"classes": 4}, "5 classes.*the model has 4.*classifier, upsampling"),
            ({"upsampling": "bilinear"}, r"fyu/drn.*1 unexpected.*upsampling\.weight"),
            ({"name": "drn_d_38"}, r"fyu/drn.*2 blocks in network\.backbone\.layer5 where 6 are expected; take the"),
        ),
    ),
    case("drn_d_22", torch_up=True),
    *(case(name) for name in ("drn_d_54", "drn_c_26", "drn_c_58")),
]
FULL = []


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_references_and_the_published(name):
    with torch.device("meta"):
        network = DRNSeg(19, name)
        tensors = Tensors()
        drn_seg(tensors, torch.zeros(1, 3, 16, 16), name)
    unused = sum(value.numel() for key, value in tensors.items() if "base.9.0.down" in key and "running" not in key)
    assert bool(unused) == (name == "drn_c_58")
    own = sum(parameter.numel() for parameter in network.parameters())
    assert own == tensors.count() - unused
    features = network.backbone.channels
    classifier = sum(parameter.numel() for parameter in network.backbone.parameters()) + (features + 1) * 1000
    assert abs((classifier + unused) / 1e6 - PUBLISHED[name]) < 0.06


@pytest.mark.parametrize("name", ["drn_d_22", "drn_c_58"])
def test_classification_weights_are_a_start(name, tmp_path):
    tensors = Tensors()
    images = torch.rand(1, 3, 33, 47)
    with torch.no_grad():
        expected = drn_features(tensors, images, name, WIDTH, numbered=False)
        tensors.conv("fc", expected, 1000, 1, bias=True)
        torch.save({f"module.{key}": value for key, value in tensors.items()}, tmp_path / "start.pth")
        backbone = DRNSeg(5, name, WIDTH, weights=str(tmp_path / "start.pth")).backbone.eval()
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", partly(["drn_d_22", "drn_c_26", "drn_d_54"], "drn_d_22".__eq__))
def test_features_are_those_of_pytorchcv(name):
    """A definition by others: its tensors are in the same order, under names of its own."""
    drn = pytest.importorskip("pytorchcv.models.drn", reason="pip install --no-deps pytorchcv==0.0.74")
    reference = getattr(drn, name.replace("_", ""))().eval().double()
    for layer in reference.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0.0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    backbone = DRN(name).eval().double()
    found, theirs = backbone.state_dict(), reference.features.state_dict()
    assert [value.shape for value in found.values()] == [value.shape for value in theirs.values()]
    backbone.load_state_dict(dict(zip(found, theirs.values(), strict=True)))
    images = torch.rand(1, 3, 33, 47, dtype=torch.float64)
    with torch.no_grad():
        # the last module pools
        torch.testing.assert_close(backbone(images), reference.features[:-1](images))


def test_fixed_kernels_are_bilinear_and_not_trained():
    fixed, learned = DRNSeg(2, width=1), DRNSeg(2, width=1, upsampling="learned")
    assert not fixed.upsampling.weight.requires_grad
    assert learned.upsampling.weight.requires_grad
    ramp = torch.arange(6.0).expand(1, 2, 6, 6)
    inner = fixed.upsampling(ramp)[0, 0, 20, 8:40]
    torch.testing.assert_close(inner[1:] - inner[:-1], torch.full((31,), 1 / 8))


def test_start_of_another_depth_is_refused(tmp_path):
    torch.save(DRN("drn_d_38", 2).state_dict(), tmp_path / "deep.pth")
    with pytest.raises(ModelError, match=r"deep\.pth does not hold the weights of backbone drn_d_22: .*unexpected"):
        DRNSeg(4, width=2, weights=str(tmp_path / "deep.pth"))
