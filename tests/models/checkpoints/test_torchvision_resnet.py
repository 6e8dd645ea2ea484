"""Checkpoints of torchvision's FCN and DeepLabV3 over ResNets, compared with torchvision itself."""

import pytest
import torch
from torchvision.models import resnet, segmentation
from torchvision.models.segmentation.deeplabv3 import _deeplabv3_resnet
from torchvision.models.segmentation.fcn import _fcn_resnet

from robustseg.models import FCN, DeepLabV3, ModelError, load_segmentation_weights
from robustseg.models.checkpoints.recognise import LAYOUTS

from .parity import assert_same, misnormalised, normalised, parameters, randomise_

LAYERS = (1, 1, 2, 2)
KINDS = {"torchvision FCN-ResNet": (FCN, _fcn_resnet), "torchvision DeepLabV3-ResNet": (DeepLabV3, _deeplabv3_resnet)}
FULL = [
    (FCN, "resnet50", segmentation.fcn_resnet50, segmentation.FCN_ResNet50_Weights),
    (FCN, "resnet101", segmentation.fcn_resnet101, segmentation.FCN_ResNet101_Weights),
    (DeepLabV3, "resnet50", segmentation.deeplabv3_resnet50, segmentation.DeepLabV3_ResNet50_Weights),
    (DeepLabV3, "resnet101", segmentation.deeplabv3_resnet101, segmentation.DeepLabV3_ResNet101_Weights),
]


def theirs(build, aux=True):
    backbone = resnet.ResNet(resnet.Bottleneck, list(LAYERS), replace_stride_with_dilation=[False, True, True])
    return randomise_(build(backbone, 5, aux))


def ours(kind, **arguments):
    return misnormalised(kind(5, "resnet50", backbone_args={"layers": LAYERS}, **arguments))


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory):
    torch.manual_seed(0)
    kind, build = KINDS[request.param]
    reference = theirs(build)
    path = tmp_path_factory.mktemp("torchvision") / "model_29.pth"
    # as references/segmentation/train.py writes it, from DistributedDataParallel or not
    torch.save({"model": reference.state_dict(), "optimizer": {}, "lr_scheduler": {}, "epoch": 29}, path)
    return request.param, kind, reference.double(), path


@pytest.mark.parametrize(
    "size", [(33, 47), pytest.param((65, 81), marks=pytest.mark.exhaustive)], ids="{0[0]}x{0[1]}".format
)
def test_logits_and_gradients_are_torchvisions(case, size):
    name, kind, reference, path = case
    model = ours(kind)
    assert load_segmentation_weights(model, path)["layout"] == name
    assert_same(model, lambda images: reference(normalised(images))["out"], *size)


def test_auxiliary_logits_are_torchvisions(case):
    _, kind, reference, path = case
    model = ours(kind)
    load_segmentation_weights(model, path)
    images = torch.rand(1, 3, 33, 47, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(normalised(images))["aux"]
        _, aux_logits = model.double().eval().forward_with_aux(images)
    torch.testing.assert_close(aux_logits, expected, rtol=1e-6, atol=1e-6)


def test_only_its_own_layout_recognises_it(case):
    name, _, reference, _ = case
    assert [layout.name for layout in LAYOUTS if layout.recognises(reference.state_dict())] == [name]


def test_without_auxiliary_head(case, tmp_path):
    name, kind, reference, path = case
    state = {key: value for key, value in reference.state_dict().items() if not key.startswith("aux_classifier.")}
    torch.save(state, tmp_path / "no_aux.pth")
    assert load_segmentation_weights(ours(kind, aux_head=False), tmp_path / "no_aux.pth")["layout"] == name
    with pytest.raises(ModelError, match=r"no_aux\.pth \(read as torchvision.*missing.*aux_head"):
        load_segmentation_weights(ours(kind), tmp_path / "no_aux.pth")
    with pytest.raises(ModelError, match=r"model_29\.pth \(read as torchvision.*unexpected.*aux_head"):
        load_segmentation_weights(ours(kind, aux_head=False), path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"align_corners": True}, "align_corners: false"), ({"output_stride": 16}, "output_stride: 8")],
    ids=["align_corners", "output_stride"],
)
def test_what_the_shapes_do_not_show_is_asked_for(case, changed, words):
    _, kind, _, path = case
    with pytest.raises(ModelError, match=f"needs.*{words}.*{kind.__name__.lower()}_r50;"):
        load_segmentation_weights(ours(kind, **changed), path)


@pytest.mark.parametrize(
    ("kind", "backbone", "build", "weights"), FULL, ids=lambda value: getattr(value, "__name__", value)
)
def test_full_size_has_the_same_tensors_and_the_published_count(kind, backbone, build, weights):
    with torch.device("meta"):
        reference = build(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
        network = kind(21, backbone)
    layout = next(layout for layout in LAYOUTS if layout.recognises(reference.state_dict()))
    converted = layout.convert(reference.state_dict(), network)
    own = network.state_dict()
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in own.items()}
    assert parameters(network) == parameters(reference) == weights.DEFAULT.meta["num_params"]
    crop = weights.DEFAULT.transforms()
    assert (tuple(crop.mean), tuple(crop.std)) == (layout.mean, layout.std)
