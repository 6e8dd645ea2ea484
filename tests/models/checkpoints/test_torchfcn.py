"""Checkpoints of wkentaro/pytorch-fcn, against the package torchfcn."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from robustseg.models import FCN8s, FCN16s, FCN32s, SegmentationModel, load_segmentation_weights

from .parity import Case

CLASSES = 5
WIDTH = 4
MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)
KINDS = {"FCN32s": FCN32s, "FCN16s": FCN16s, "FCN8s": FCN8s, "FCN8sAtOnce": FCN8s}


@functools.cache
def torchfcn():
    """The package's networks alone: the package itself needs modules for data sets and downloads."""
    spec = importlib.util.find_spec("torchfcn")
    if spec is None or spec.origin is None:
        pytest.skip("torchfcn is not installed: pip install --no-deps torchfcn==1.9.7", allow_module_level=True)
    package = types.ModuleType("torchfcn_models")
    package.__path__ = [str(Path(spec.origin).parent / "models")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fcn", types.ModuleType("fcn"))
        patch.setitem(sys.modules, "torchfcn_models", package)
        modules = [importlib.import_module(f"torchfcn_models.{name}") for name in ("fcn32s", "fcn16s", "fcn8s")]
        for module in modules:
            del sys.modules[module.__name__]
    return types.SimpleNamespace(**{name: value for module in modules for name, value in vars(module).items()})


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
            kernel = torchfcn().get_upsampling_weight(CLASSES, CLASSES, layer.kernel_size[0])
            made = nn.ConvTranspose2d(CLASSES, CLASSES, layer.kernel_size, layer.stride, bias=False)
            made.weight.data = kernel + 0.02 * torch.randn_like(kernel)
            setattr(reference, name, made)
    if type(reference).__name__ == "FCN8sAtOnce":
        reference.score_pool3.weight.data *= 1e4
        reference.score_pool4.weight.data *= 1e2
    return reference.eval()


def reference(name):
    with torch.device("meta"):
        network = getattr(torchfcn(), name)(CLASSES)
    return narrow(network)


def wrapped(state):
    content = {"epoch": 1, "iteration": 9, "arch": "FCN", "optim_state_dict": {"param_groups": []}}
    return {**content, "model_state_dict": state, "best_mean_iu": 0.5}


def build(name, classes=CLASSES, **arguments):
    arguments = {"width": WIDTH, "channels": 4096 * WIDTH // 64, "normalisation": "caffe", **arguments}
    return KINDS[name](classes, **arguments, **({"at_once": True} if name == "FCN8sAtOnce" else {}))


def logits(network, images):
    return network(images.flip(1) * 255 - torch.tensor(MEAN_BGR, dtype=images.dtype).view(1, 3, 1, 1))


REFUSED = (
    ({"normalisation": "imagenet"}, "normalisation: caffe.*fcn8s_vgg16_caffe"),
    ({"name": "FCN16s"}, "FCN16s.*use FCN8s.*fcn8s_vgg16_caffe"),
    ({"classes": 3}, "5 classes.*the model has 3.*score_fr.*score_pool3.*upscore8"),
    ({"channels": 64}, r"backbone\.fc6\.weight.*\[256, 32, 7, 7\].*\[64, 32, 7, 7\]"),
)
torchfcn()  # or nothing here is compared
CASES = [
    Case(
        name,
        f"wkentaro/pytorch-fcn {name.removesuffix('AtOnce')}",
        functools.partial(reference, name),
        lambda name=name, **changed: SegmentationModel(build(name, **changed)),
        sizes=((33, 47), (64, 40)) if name == "FCN8s" else ((33, 47),),
        logits=logits,
        wrap=wrapped,
        refuses=REFUSED if name == "FCN8s" else (),
    )
    for name in KINDS
]
FULL = []


def test_dropout_is_the_references(tmp_path):
    network = reference("FCN32s").train()
    model = SegmentationModel(build("FCN32s")).train()
    torch.save(wrapped(network.state_dict()), tmp_path / "model.pth")
    load_segmentation_weights(model, tmp_path / "model.pth")
    images = torch.rand(1, 3, 33, 47)
    with torch.no_grad():
        torch.manual_seed(5)
        expected = logits(network, images)
        torch.manual_seed(5)
        torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(model(images), expected, rtol=1e-1)


@pytest.mark.parametrize("name", KINDS)
def test_tensors_and_initial_kernels_are_the_references(name):
    with torch.device("meta"):
        theirs, own = getattr(torchfcn(), name)(21), KINDS[name](21)
    count = sum(parameter.numel() for parameter in theirs.parameters())
    assert sum(parameter.numel() for parameter in own.parameters()) == count
    layers = {key: layer for key, layer in build(name).named_children() if isinstance(layer, nn.ConvTranspose2d)}
    assert layers
    for layer in layers.values():
        bilinear = torchfcn().get_upsampling_weight(CLASSES, CLASSES, layer.kernel_size[0])
        torch.testing.assert_close(layer.weight.data, bilinear)
        assert not layer.weight.requires_grad
    learned = build(name, learned_upsampling=True)
    assert all(getattr(learned, key).weight.requires_grad for key in layers)
    assert not any(parameter.any() for key, parameter in learned.named_parameters() if key.startswith("score"))
