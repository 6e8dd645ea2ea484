"""What other projects' heads and ResNets have that ours have not by default."""

import pytest
import torch

from robustseg.models import FCN, Backbone, DeepLabV3, PSPNet, SegmentationModel

SMALL = {"channels": [8, 16, 32, 64]}
OPTIONS = [
    (PSPNet, {}),
    (DeepLabV3, {}),
    (FCN, {}),
    (DeepLabV3, {"project_kernel": 3, "refine": False}),
    (DeepLabV3, {"rates": [2, 5], "aux_kernel": 1, "aux_channels": 6}),
    (FCN, {"convs": 2, "concat_input": True}),
    (FCN, {"convs": 3}),
    (PSPNet, {"aux_channels": 3}),
]


@pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=str)
def test_options_train_at_odd_sizes_with_a_batch_of_one(kind, options):
    network = kind(4, "resnet10t", 8, 8, backbone_args=SMALL, **options)
    model = SegmentationModel(network).train()
    images = torch.rand(1, 3, 97, 131)
    logits, aux_logits = model.forward_with_aux(images)
    assert logits.shape == aux_logits.shape == (1, 4, 97, 131)
    (logits.square().mean() + aux_logits.square().mean()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.eval()(torch.rand(2, 3, 33, 47)).shape == (2, 4, 33, 47)
    assert {name: getattr(network, name) for name in options if hasattr(network, name)}.items() <= options.items()


def test_options_decide_the_convolutions():
    def shapes(module):
        return [tuple(layer.weight.shape) for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)]

    deeplab = DeepLabV3(
        4, "resnet10t", 8, 8, rates=[2, 5], project_kernel=3, refine=False, aux_kernel=1, aux_channels=6
    )
    assert [branch[0].dilation[0] for branch in deeplab.head.branches] == [1, 2, 5]
    assert shapes(deeplab.head.project) + shapes(deeplab.head.classifier) == [(8, 32, 3, 3), (4, 8, 1, 1)]
    assert shapes(deeplab.aux_head) == [(6, 256, 1, 1), (4, 6, 1, 1)]
    fcn = FCN(4, "resnet10t", 8, 8, convs=2, concat_input=True)
    assert shapes(fcn.head) == [(8, 512, 3, 3), (8, 8, 3, 3), (8, 520, 3, 3), (4, 8, 1, 1)]
    assert shapes(FCN(4, "resnet10t", 8, 8, convs=2).head) == [(8, 512, 3, 3), (8, 8, 3, 3), (4, 8, 1, 1)]


def test_dilate_once_leaves_the_second_convolution_of_a_block_alone():
    def dilations(**options):
        body = Backbone("resnet18", 8, args=SMALL, **options).body
        return [[(block.conv1.dilation[0], block.conv2.dilation[0]) for block in stage] for stage in stages(body)]

    def stages(body):
        return body.layer2, body.layer3, body.layer4

    assert dilations() == [[(1, 1), (1, 1)], [(1, 2), (2, 2)], [(2, 4), (4, 4)]]
    assert dilations(dilate_once=True) == [[(1, 1), (1, 1)], [(1, 1), (2, 1)], [(2, 1), (4, 1)]]
