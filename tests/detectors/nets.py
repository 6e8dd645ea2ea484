"""A model whose answers depend on what is around a pixel, and ids for its images."""

from __future__ import annotations

import torch
from torch import nn


class Context(nn.Module):
    """Four classes by what is around a pixel, borders of the input included."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 7, padding=3)
        self.norm = nn.BatchNorm2d(4)
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(self.conv.weight.shape, generator=generator))
            self.conv.bias.copy_(torch.randn(4, generator=generator))

    def forward(self, images):
        return self.norm(self.conv(images))


def ids_of(count=3):
    return [f"image {number}" for number in range(count)]


def model():
    return Context().eval()
