"""Checkpoints of fyu/drn, against a restatement of its network: no package has it."""

import pytest
import torch
from torch.nn import functional as F

from robustseg.models import DRN, DRNSeg, ModelError, SegmentationModel, load_segmentation_weights
from robustseg.models.checkpoints.layouts.drn import DRN_C, DRN_D
from robustseg.models.checkpoints.recognise import LAYOUTS
from tests.helpers.cases import partly

from .reference_drn import drn_features, drn_seg
from .reference_tensors import Tensors

WIDTH = 4
MEAN, STD = (0.290101, 0.328081, 0.286964), (0.182954, 0.186566, 0.184475)
PUBLISHED = {
    **{"drn_d_22": 16.4, "drn_d_38": 26.5, "drn_d_54": 35.8, "drn_d_105": 54.8},
    **{"drn_c_26": 21.1, "drn_c_42": 31.2, "drn_c_58": 41.6},
}
"""Million parameters of the classification networks, from the project's README."""


def normalised(images):
    return (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def reference_state(name="drn_d_22", **arguments):
    tensors = Tensors()
    with torch.no_grad():
        drn_seg(tensors, torch.randn(1, 3, 64, 64), name, WIDTH, classes=5, **arguments)
    return tensors


def save(tensors, path, prefix="module."):
    content = {f"{prefix}{key}": value for key, value in tensors.items()}
    torch.save({"epoch": 3, "arch": "drn_d_22", "state_dict": content, "best_prec1": 0.5}, path)
    return path


@pytest.mark.parametrize("size", [(48, 64), (33, 47)])
@pytest.mark.parametrize(
    ("name", "torch_up"),
    [("drn_d_22", False), ("drn_d_22", True), ("drn_d_54", False), ("drn_c_26", False), ("drn_c_58", False)],
)
def test_logits_and_gradients_are_the_references(name, torch_up, size, tmp_path):
    tensors = reference_state(name, torch_up=torch_up)
    network = DRNSeg(5, name, WIDTH, "bilinear" if torch_up else "fixed")
    model = SegmentationModel(network).eval()
    info = load_segmentation_weights(model, save(tensors, tmp_path / "drn.pth"))
    assert info["layout"] == (DRN_C if "_c_" in name else DRN_D).name
    if torch_up and size == (33, 47):
        pytest.skip("the reference interpolates to multiples of 8, where corners are not the image's")
    model.double()
    images = torch.rand(1, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = drn_seg(tensors.double(), normalised(images), name, WIDTH, 5, torch_up)[..., : size[0], : size[1]]
    logits = model(images)
    found = F.log_softmax(logits, dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert 0.3 < logits.std() < 30
    assert (logits.exp().sum(1) - 1).abs().max() > 0.1, "logits, not log-probabilities"
    target = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * target).sum(), images)[0]
    torch.testing.assert_close(torch.autograd.grad((found * target).sum(), images)[0], wanted, rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize("name", ["drn_d_22", "drn_c_26"])
def test_only_its_own_layout_recognises_it(name):
    keys = list(reference_state(name))
    assert [layout.network for layout in LAYOUTS if layout.recognises(keys)] == [DRNSeg]


def test_fixed_kernels_are_bilinear_and_not_trained():
    fixed, learned = DRNSeg(2, width=1), DRNSeg(2, width=1, upsampling="learned")
    assert not fixed.upsampling.weight.requires_grad
    assert learned.upsampling.weight.requires_grad
    ramp = torch.arange(6.0).expand(1, 2, 6, 6)
    inner = fixed.upsampling(ramp)[0, 0, 20, 8:40]
    torch.testing.assert_close(inner[1:] - inner[:-1], torch.full((31,), 1 / 8))


def with_other_classes(path):
    network = DRNSeg(5, width=WIDTH)
    tensors = reference_state()
    tensors["seg.weight"], tensors["seg.bias"] = torch.zeros(19, 4 * 8 * WIDTH, 1, 1), torch.zeros(19)
    tensors["up.weight"] = torch.zeros(19, 1, 16, 16)
    return network, save(tensors, path)


def with_bilinear_upsampling(path):
    return DRNSeg(5, width=WIDTH, upsampling="bilinear"), save(reference_state(), path)


def for_a_deeper_one(path):
    return DRNSeg(5, "drn_d_38", WIDTH), save(reference_state(), path)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (with_other_classes, ["19 classes", "the model has 5", "classifier, upsampling"]),
        (with_bilinear_upsampling, ["fyu/drn", "1 unexpected", "upsampling.weight"]),
        (for_a_deeper_one, ["fyu/drn", "2 blocks in network.backbone.layer5 where 6 are expected; take the"]),
    ],
)
def test_other_checkpoints_are_refused(prepare, words, tmp_path):
    network, path = prepare(tmp_path / "drn.pth")
    model = SegmentationModel(network)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        load_segmentation_weights(model, path)
    for word in [*words, str(path)]:
        assert word in str(caught.value), str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"backbone": "drn_a_50"}, ["drn_a_50", "drn_d_22"]),
        ({"width": 0}, ["width = 0"]),
        ({"upsampling": "nearest"}, ["nearest", "bilinear"]),
        ({"weights": "gone.pth"}, ["gone.pth", "does not exist"]),
    ],
)
def test_bad_arguments_name_the_key(arguments, words):
    with pytest.raises(ModelError) as caught:
        DRNSeg(4, **arguments)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_start_of_another_depth_is_refused(tmp_path):
    torch.save(DRN("drn_d_38", 2).state_dict(), tmp_path / "deep.pth")
    with pytest.raises(ModelError, match=r"deep\.pth does not hold the weights of backbone drn_d_22: .*unexpected"):
        DRNSeg(4, width=2, weights=str(tmp_path / "deep.pth"))
