"""ConvNeXt under UPerNet as facebookresearch/ConvNeXt defines it (semantic_segmentation/backbone/convnext.py).

nmndeep/Robust-Segmentation builds on it, with a stem of convolutions (semseg/models/backbones/convnext_orig.py);
mmpretrain, whose networks MMSegmentation takes, has the same with other names of the layers in a block.
"""

from itertools import pairwise

import torch
from torch import nn


class ChannelsFirstNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        variance = ((x - mean) ** 2).mean(1, keepdim=True)
        return self.weight[:, None, None] * (x - mean) / torch.sqrt(variance + 1e-6) + self.bias[:, None, None]


class Block(nn.Module):
    def __init__(self, width, names):
        super().__init__()
        self.names = names
        depthwise, first, second = names
        self.add_module(depthwise, nn.Conv2d(width, width, 7, padding=3, groups=width))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.add_module(first, nn.Linear(width, 4 * width))
        self.add_module(second, nn.Linear(4 * width, width))
        self.gamma = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x):
        depthwise, first, second = (getattr(self, name) for name in self.names)
        y = self.norm(depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * second(nn.functional.gelu(first(y)))).permute(0, 3, 1, 2)


class Stem(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, 2, 1),
            ChannelsFirstNorm(width // 2),
            nn.GELU(),
            nn.Conv2d(width // 2, width, 3, 2, 1),
            ChannelsFirstNorm(width),
            nn.GELU(),
        )

    def forward(self, x):
        return self.stem(x)


ORIGINAL = ("dwconv", "pwconv1", "pwconv2")
MMPRETRAIN = ("depthwise_conv", "pointwise_conv1", "pointwise_conv2")


class ConvNeXt(nn.Module):
    def __init__(self, depths, widths, names=ORIGINAL, conv_stem=False):
        super().__init__()
        patches = nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), ChannelsFirstNorm(widths[0]))
        self.downsample_layers = nn.ModuleList([Stem(widths[0]) if conv_stem else patches])
        for before, after in pairwise(widths):
            self.downsample_layers.append(nn.Sequential(ChannelsFirstNorm(before), nn.Conv2d(before, after, 2, 2)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width, names) for _ in range(depth)))
            for depth, width in zip(depths, widths, strict=True)
        )
        for level, width in enumerate(widths):
            self.add_module(f"norm{level}", ChannelsFirstNorm(width))

    def forward(self, x):
        levels = []
        for level, (down, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(down(x))
            levels.append(getattr(self, f"norm{level}")(x))
        return tuple(levels)
