"""Checkpoints of wkentaro/pytorch-fcn, against the package torchfcn."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from robustseg.models import FCN8s, FCN16s, FCN32s, ModelError, SegmentationModel, load_segmentation_weights
from robustseg.models.checkpoints.recognise import LAYOUTS

CLASSES = 5
WIDTH = 4
MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)
KINDS = {"FCN32s": FCN32s, "FCN16s": FCN16s, "FCN8s": FCN8s, "FCN8sAtOnce": FCN8s}


@pytest.fixture(scope="module")
def torchfcn():
    """The package's networks alone: the package itself needs modules for data sets and downloads."""
    spec = importlib.util.find_spec("torchfcn")
    if spec is None or spec.origin is None:
        pytest.skip("torchfcn is not installed: pip install --no-deps torchfcn==1.9.7")
    package = types.ModuleType("torchfcn_models")
    package.__path__ = [str(Path(spec.origin).parent / "models")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fcn", types.ModuleType("fcn"))
        patch.setitem(sys.modules, "torchfcn_models", package)
        modules = [importlib.import_module(f"torchfcn_models.{name}") for name in ("fcn32s", "fcn16s", "fcn8s")]
        yield types.SimpleNamespace(**{name: cls for module in modules for name, cls in vars(module).items()})
        for module in modules:
            del sys.modules[module.__name__]


def narrow(reference: nn.Module) -> nn.Module:
    """An eighth of all widths, which the package does not offer, with random weights."""

    def fewer(channels):
        return channels if channels in (3, CLASSES) else channels * WIDTH // 64

    for name, layer in list(reference.named_children()):
        if isinstance(layer, nn.Conv2d):
            channels = fewer(layer.in_channels), fewer(layer.out_channels)
            made = nn.Conv2d(*channels, layer.kernel_size, padding=layer.padding)
            nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
            nn.init.normal_(made.bias, std=0.3)
            if name.startswith("score"):
                made.weight.data *= 0.03  # features are of the order of their images, 100
            setattr(reference, name, made)
        elif isinstance(layer, nn.ConvTranspose2d):
            layer.weight.data += 0.02 * torch.randn_like(layer.weight)
    if type(reference).__name__ == "FCN8sAtOnce":
        reference.score_pool3.weight.data *= 1e4
        reference.score_pool4.weight.data *= 1e2
    return reference.eval()


def save(reference, path):
    content = {"epoch": 1, "iteration": 9, "arch": type(reference).__name__, "optim_state_dict": {"param_groups": []}}
    torch.save({**content, "model_state_dict": reference.state_dict(), "best_mean_iu": 0.5}, path)
    return path


def build(name, **arguments):
    arguments = {"width": WIDTH, "channels": 4096 * WIDTH // 64, "normalisation": "caffe", **arguments}
    return KINDS[name](CLASSES, **arguments, **({"at_once": True} if name == "FCN8sAtOnce" else {}))


@pytest.mark.parametrize(("name", "size"), [*((name, (33, 47)) for name in KINDS), ("FCN8s", (64, 40))])
def test_logits_and_gradients_are_the_references(name, size, torchfcn, tmp_path):
    reference = narrow(getattr(torchfcn, name)(CLASSES))
    model = SegmentationModel(build(name)).eval()
    info = load_segmentation_weights(model, save(reference, tmp_path / "model_best.pth.tar"))
    assert info["layout"] == f"wkentaro/pytorch-fcn {name.removesuffix('AtOnce')}"
    model.double()
    reference.double()
    images = torch.rand(1, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = reference(images.flip(1) * 255 - torch.tensor(MEAN_BGR, dtype=torch.float64).view(1, 3, 1, 1))
    found = model(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert 0.1 < found.std() < 30
    target = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * target).sum(), images)[0]
    torch.testing.assert_close(torch.autograd.grad((found * target).sum(), images)[0], wanted, rtol=1e-4, atol=1e-4)


def test_dropout_is_the_references(torchfcn, tmp_path):
    reference = narrow(torchfcn.FCN32s(CLASSES)).train()
    model = SegmentationModel(build("FCN32s")).train()
    load_segmentation_weights(model, save(reference, tmp_path / "model.pth"))
    images = torch.rand(1, 3, 33, 47)
    with torch.no_grad():
        torch.manual_seed(5)
        expected = reference(images.flip(1) * 255 - torch.tensor(MEAN_BGR).view(1, 3, 1, 1))
        torch.manual_seed(5)
        torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(model(images), expected, rtol=1e-1)


@pytest.mark.parametrize("name", KINDS)
def test_tensors_and_initial_kernels_are_the_references(name, torchfcn):
    with torch.device("meta"):
        reference, own = getattr(torchfcn, name)(21), KINDS[name](21)
    count = sum(parameter.numel() for parameter in reference.parameters())
    assert sum(parameter.numel() for parameter in own.parameters()) == count
    layers = {key: layer for key, layer in build(name).named_children() if isinstance(layer, nn.ConvTranspose2d)}
    bilinear = sys.modules[torchfcn.FCN32s.__module__].get_upsampling_weight
    assert layers
    for layer in layers.values():
        torch.testing.assert_close(layer.weight.data, bilinear(CLASSES, CLASSES, layer.kernel_size[0]))
        assert not layer.weight.requires_grad
    learned = build(name, learned_upsampling=True)
    assert all(getattr(learned, key).weight.requires_grad for key in layers)
    assert not any(parameter.any() for key, parameter in learned.named_parameters() if key.startswith("score"))


@pytest.mark.parametrize("name", ["FCN32s", "FCN16s", "FCN8s"])
def test_only_its_own_layout_recognises_it(name, torchfcn):
    with torch.device("meta"):
        keys = list(getattr(torchfcn, name)(21).state_dict())
    assert [layout.network.__name__ for layout in LAYOUTS if layout.recognises(keys)] == [name]


def in_another_normalisation(torchfcn, path):
    return build("FCN8s", normalisation="imagenet"), save(narrow(torchfcn.FCN8s(CLASSES)), path)


def in_another_network(torchfcn, path):
    return build("FCN16s"), save(narrow(torchfcn.FCN8s(CLASSES)), path)


def of_other_classes(torchfcn, path):
    network = FCN8s(CLASSES - 2, width=WIDTH, channels=4096 * WIDTH // 64, normalisation="caffe")
    return network, save(narrow(torchfcn.FCN8s(CLASSES)), path)


def of_another_width(torchfcn, path):
    return build("FCN8s", channels=64), save(narrow(torchfcn.FCN8s(CLASSES)), path)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (in_another_normalisation, ["normalisation: caffe", "fcn8s_vgg16_caffe"]),
        (in_another_network, ["FCN16s", "use FCN8s", "fcn8s_vgg16_caffe"]),
        (of_other_classes, ["5 classes", "the model has 3", "score_fr", "score_pool3", "upscore8"]),
        (of_another_width, ["backbone.fc6.weight", "[256, 32, 7, 7]", "[64, 32, 7, 7]"]),
    ],
)
def test_other_checkpoints_are_refused(prepare, words, torchfcn, tmp_path):
    network, path = prepare(torchfcn, tmp_path / "fcn.pth")
    model = SegmentationModel(network)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        load_segmentation_weights(model, path)
    for word in [*words, str(path)]:
        assert word in str(caught.value), str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
