"""hszhao/semseg's PSPNet and the networks of dvlab-research/Robust-Semantic-Segmentation, which builds on it.

Written out plainly from their ``model/pspnet.py`` and ``model/resnet.py``, as far as evaluation needs it: the same
modules in the same order under the same names. ``width`` is 64 there; all others follow from it.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    def __init__(self, inputs, planes, stride, dilation):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = None
        if inputs != 4 * planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * planes, 1, stride, bias=False), nn.BatchNorm2d(4 * planes)
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


def stage(inputs, planes, blocks, stride, dilation):
    """Every block of a stage has the same dilation, the first one as well."""
    first = Bottleneck(inputs, planes, stride, dilation)
    return nn.Sequential(first, *(Bottleneck(4 * planes, planes, 1, dilation) for _ in range(blocks - 1)))


def conv_bn(inputs, outputs, kernel, stride=1, dilation=1):
    padding = dilation * (kernel // 2)
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def classifier(inputs, hidden, classes, kernel):
    return nn.Sequential(*conv_bn(inputs, hidden, kernel), nn.Dropout2d(0.1), nn.Conv2d(hidden, classes, 1))


class PPM(nn.Module):
    def __init__(self, inputs, bins=(1, 2, 3, 6)):
        super().__init__()
        self.features = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), *conv_bn(inputs, inputs // 4, 1)) for size in bins
        )

    def forward(self, x):
        maps = [F.interpolate(branch(x), x.shape[2:], mode="bilinear", align_corners=True) for branch in self.features]
        return torch.cat([x, *maps], 1)


class ASPP(nn.Module):
    def __init__(self, inputs, outputs, rates=(6, 12, 18)):
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Sequential(*conv_bn(inputs, outputs, 1)),
                *(nn.Sequential(*conv_bn(inputs, outputs, 3, dilation=rate)) for rate in rates),
                nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn(inputs, outputs, 1)),
            ]
        )

    def forward(self, x):
        whole = F.interpolate(self.convs[-1](x), x.shape[2:], mode="bilinear", align_corners=True)
        return torch.cat([*(conv(x) for conv in self.convs[:-1]), whole], 1)


class Reference(nn.Module):
    """``PSPNet``, ``PSPNet_DDCAT``, ``DeepLabV3`` or ``DeepLabV3_DDCAT`` of those files.

    They take images of 8k + 1 pixels only and return logits of as many: resized to the images' size, as here.
    """

    def __init__(self, kind="pspnet", ddcat=False, layers=(3, 4, 6, 3), classes=5, width=64):
        super().__init__()
        self.layer0 = nn.Sequential(
            *conv_bn(3, width, 3, stride=2),
            *conv_bn(width, width, 3),
            *conv_bn(width, 2 * width, 3),
            nn.MaxPool2d(3, 2, 1),
        )
        self.layer1 = stage(2 * width, width, layers[0], 1, 1)
        self.layer2 = stage(4 * width, 2 * width, layers[1], 2, 1)
        self.layer3 = stage(8 * width, 4 * width, layers[2], 1, 2)
        self.layer4 = stage(16 * width, 8 * width, layers[3], 1, 4)
        if kind == "pspnet":
            self.ppm, inputs, hidden, kernel = PPM(32 * width), 64 * width, 8 * width, 3
        else:
            self.aspp, inputs, hidden, kernel = ASPP(32 * width, 4 * width), 20 * width, 4 * width, 1
        if ddcat:
            self.cls1 = classifier(inputs, hidden, classes, kernel)
            self.mask1 = classifier(inputs, hidden, 2, kernel)
            self.cls2 = classifier(inputs, hidden, classes, kernel)
            self.aux_cls1 = classifier(16 * width, 4 * width, classes, kernel)
        else:
            self.cls = classifier(inputs, hidden, classes, kernel)
            self.aux = classifier(16 * width, 4 * width, classes, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """What ``forward`` returns in eval mode: of DDC-AT's networks, the first classifier's logits."""
        size = x.shape[2:]
        third = self.layer3(self.layer2(self.layer1(self.layer0(x))))
        fourth = self.layer4(third)
        features = self.ppm(fourth) if hasattr(self, "ppm") else self.aspp(fourth)
        logits = self.cls1(features) if hasattr(self, "cls1") else self.cls(features)
        return F.interpolate(logits, size, mode="bilinear", align_corners=True)

    def auxiliary(self, x: Tensor) -> Tensor:
        """The auxiliary classifier's logits at the images' size."""
        third = self.layer3(self.layer2(self.layer1(self.layer0(x))))
        logits = self.aux_cls1(third) if hasattr(self, "aux_cls1") else self.aux(third)
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=True)


def wrapped(state: dict[str, Tensor]) -> dict[str, object]:
    """A state dict as the training scripts write it: from DataParallel, with epoch and optimizer beside it."""
    return {
        "epoch": 100,
        "state_dict": OrderedDict((f"module.{key}", value) for key, value in state.items()),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.01, "params": [0]}]},
    }
