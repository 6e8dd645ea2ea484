"""ESPNet: a small encoder-decoder of pyramids of dilated convolutions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustseg.models.errors import ModelError
from robustseg.models.network import Network

DILATIONS = (1, 2, 4, 8, 16)
"""Dilations of the convolutions of an ESP block."""
STRIDE = 8
"""Input pixels per cell of the coarsest features."""
CAMVID_MEAN: tuple[float, ...] = (0.41189488, 0.42513279, 0.43267069)
"""RGB mean over CamVid's training images, for images in [0, 1]."""
CAMVID_STD: tuple[float, ...] = (255 * 0.27413470, 255 * 0.28506175, 255 * 0.28284592)
"""Standard deviation over the same images, times 255: the authors divide normalised images by 255 once more."""

Normalisation = Literal["imagenet", "camvid"]


class ESPNet(Network):
    """An encoder of ESP blocks at strides 2 to 8, and a decoder of transposed convolutions up to the image's size.

    Source: Mehta et al., "ESPNet: Efficient Spatial Pyramid of Dilated Convolutions for Semantic Segmentation", ECCV
    2018; layer by layer as in the authors' code (sacmehta/ESPNet). That code fails for sides that are no multiples of
    8; here such images are padded with the mean colour at the right and at the bottom.

    Args:
        num_classes: Number of classes C.
        p: Number of ESP blocks at stride 4, the paper's α₂.
        q: Number of ESP blocks at stride 8, the paper's α₃.
        normalisation: Normalisation of the images that the weights were trained with. ``imagenet``: RGB with ImageNet's
            mean and standard deviation. ``camvid``: BGR with CamVid's, divided by 255, for the authors' CamVid weights.

    Raises:
        ModelError: An argument is out of range.
    """

    def __init__(self, num_classes: int, p: int = 2, q: int = 8, normalisation: Normalisation = "imagenet") -> None:
        super().__init__(num_classes)
        for name, blocks in (("p", p), ("q", q)):
            if blocks < 1:
                raise ModelError(f"{name} = {blocks}: at least one ESP block expected.")
        if normalisation not in ("imagenet", "camvid"):
            raise ModelError(f"normalisation = {normalisation!r}: imagenet or camvid expected.")
        self.normalisation: Normalisation = normalisation
        if normalisation == "camvid":
            self.image_mean, self.image_std, self.channel_order = CAMVID_MEAN, CAMVID_STD, "bgr"
        c = num_classes
        self.stem = nn.Sequential(_conv(3, 16, 3, stride=2), *_bn_prelu(16))
        self.joint1 = nn.Sequential(*_bn_prelu(19))
        self.down2 = ESPBlock(19, 64, stride=2)
        self.blocks2 = nn.Sequential(*(ESPBlock(64, 64, residual=True) for _ in range(p)))
        self.joint2 = nn.Sequential(*_bn_prelu(131))
        self.down3 = ESPBlock(131, 128, stride=2)
        self.blocks3 = nn.Sequential(*(ESPBlock(128, 128, residual=True) for _ in range(q)))
        self.joint3 = nn.Sequential(*_bn_prelu(256))
        self.scores3 = nn.Sequential(_conv(256, c, 1), _batch_norm(c))
        self.up3 = _double(c)
        self.scores2 = _conv(131, c, 1)
        self.merge2 = nn.Sequential(*_bn_prelu(2 * c), ESPBlock(2 * c, c))
        self.up2 = nn.Sequential(_double(c), *_bn_prelu(c))
        self.merge1 = nn.Sequential(_conv(19 + c, c, 3), *_bn_prelu(c))
        self.classifier = _double(c)

    def forward(self, x: Tensor) -> Tensor:
        """Return B×C×H×W logits for normalised B×3×H×W images."""
        height, width = x.shape[-2:]
        # zero is the mean colour after the normalisation
        image = F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE))
        half = F.avg_pool2d(image, 3, stride=2, padding=1)
        quarter = F.avg_pool2d(half, 3, stride=2, padding=1)
        level1 = self.joint1(torch.cat([self.stem(image), half], dim=1))
        down2 = self.down2(level1)
        level2 = self.joint2(torch.cat([self.blocks2(down2), down2, quarter], dim=1))
        down3 = self.down3(level2)
        level3 = self.joint3(torch.cat([down3, self.blocks3(down3)], dim=1))
        scores = self.up3(self.scores3(level3))
        scores = self.up2(self.merge2(torch.cat([self.scores2(level2), scores], dim=1)))
        scores = self.classifier(self.merge1(torch.cat([scores, level1], dim=1)))
        return scores[..., :height, :width]  # type: ignore[no-any-return]


class ESPBlock(nn.Module):
    """An efficient spatial pyramid: a reduction, parallel dilated convolutions, and their sums step by step.

    Source: Mehta et al., ECCV 2018, section 3.

    Args:
        in_channels: Channels of the features.
        out_channels: Channels of the result; each branch has a fifth of them, the first one the remainder as well.
        stride: Input cells per cell of the result: 1, or 2 with a reduction of 3×3.
        residual: Add the features to the result.

    Shape: B×in_channels×h×w to B×out_channels×⌈h/stride⌉×⌈w/stride⌉.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        # below five channels the branches could have none
        width = max(1, out_channels // len(DILATIONS))
        first = max(1, out_channels - (len(DILATIONS) - 1) * width)
        self.residual = residual
        self.reduce = _conv(in_channels, width, 3 if stride > 1 else 1, stride=stride)
        widths = (first, *[width] * (len(DILATIONS) - 1))
        self.branches = nn.ModuleList(
            _conv(width, channels, 3, dilation=dilation) for channels, dilation in zip(widths, DILATIONS, strict=True)
        )
        self.activation = nn.Sequential(*_bn_prelu(out_channels))
        self.out_channels = out_channels

    def forward(self, features: Tensor) -> Tensor:
        """Return B×out_channels×h×w for B×in_channels×h×w features."""
        reduced = self.reduce(features)
        first, summed, *others = [branch(reduced) for branch in self.branches]
        parts = [first, summed]
        for other in others:
            summed = summed + other
            parts.append(summed)
        joint = torch.cat(parts, dim=1)[:, : self.out_channels]
        result: Tensor = self.activation(joint + features if self.residual else joint)
        return result


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False)


def _double(channels: int) -> nn.ConvTranspose2d:
    """Build a learned upsampling to twice the size."""
    return nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=False)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _bn_prelu(channels: int) -> tuple[nn.Module, nn.Module]:
    return _batch_norm(channels), nn.PReLU(channels)
