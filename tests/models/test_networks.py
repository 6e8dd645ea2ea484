import inspect
import typing

import pytest
import torch

from robustseg.models import (
    FCN,
    DeepLabV3,
    EncoderDecoder,
    FCN8s,
    ModelError,
    PSPNet,
    SegFormer,
    SegmentationModel,
    Segmenter,
    UPerNet,
)

VIT = {"dynamic_img_size": True, "dynamic_img_pad": True}
SWIN = {"img_size": [65, 97], "window_size": 4, "embed_dim": 24, "num_heads": [1, 2, 4, 8], "depths": [1, 1, 2, 1]}
# backbone, output strides, backbone_args
BACKBONES = [
    ("resnet10t", (8, 16, 32, None), {"channels": [8, 16, 32, 64]}),
    ("resnet18", (8,), {}),
    ("mobilenetv3_small_050", (8, 16, None), {}),
    ("efficientnet_lite0", (8,), {}),
    ("convnext_atto", (8, None), {}),
    ("regnetx_002", (8, None), {}),
    ("mobileone_s0", (8,), {}),
    ("vgg11_bn", (None,), {}),
    ("densenet121", (None,), {}),
    ("xcit_nano_12_p16_224", (None,), {"depth": 3}),
    ("vit_tiny_patch16_224", (None,), {**VIT, "depth": 3}),
    ("swin_tiny_patch4_window7_224", (None,), SWIN),
]
CASES = [(name, stride, args) for name, strides, args in BACKBONES for stride in strides]


@pytest.mark.parametrize(("backbone", "output_stride", "args"), CASES, ids=lambda value: str(value)[:24])
def test_backbones(backbone, output_stride, args):
    network = PSPNet(4, backbone, output_stride, 8, backbone_args=args).eval()
    images = torch.rand(1, 3, 65, 97, requires_grad=True)
    features = network.backbone(images)
    assert tuple(level.shape[1] for level in features) == network.backbone.channels
    stride = network.backbone.stride
    assert output_stride in (None, stride)
    cells = features[1].shape[-2:]
    assert all(size // stride <= cell <= -(-size // stride) for size, cell in zip((65, 97), cells, strict=True))
    logits, aux_logits = SegmentationModel(network).eval().forward_with_aux(images)
    assert logits.shape == aux_logits.shape == (1, 4, 65, 97)
    (grad,) = torch.autograd.grad(logits.square().sum(), images)
    assert grad.abs().sum() > 0


@pytest.mark.parametrize(("kind", "width"), [(PSPNet, 512), (DeepLabV3, 256), (FCN, 512)])
def test_default_widths_are_the_papers(kind, width):
    network = kind(4, "resnet10t")
    classifier = [module for module in network.head.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    assert classifier.weight.shape == (4, width, 1, 1)
    assert network.aux_head[0][0].weight.shape == (256, 256, 3, 3)
    assert network.backbone.stride == 8


@pytest.mark.parametrize("kind", [PSPNet, DeepLabV3, FCN, UPerNet, SegFormer, Segmenter])
def test_constructor_annotations_resolve(kind):
    hints = typing.get_type_hints(kind.__init__)
    assert set(inspect.signature(kind).parameters) <= set(hints)
    assert issubclass(kind, EncoderDecoder) == (kind in (PSPNet, DeepLabV3, FCN))


@pytest.mark.parametrize(
    ("kind", "backbone"),
    [(FCN, "resnet18.a1_in1k"), pytest.param(FCN8s, "vgg11.tv_in1k", marks=pytest.mark.slow)],
)
def test_offline_pretrained_names_both_ways_out(kind, backbone, monkeypatch, tmp_path):
    # an empty cache: on a developer's machine the weights may have been downloaded before
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        kind(4, backbone, channels=8, pretrained=True)
    message = str(caught.value)
    assert "\n" not in message
    for word in (backbone.split(".")[0], "pretrained: false", "weights: FILE"):
        assert word in message, message
