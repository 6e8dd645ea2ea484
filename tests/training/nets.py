"""Small nets for the training tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustseg.models import Network
from robustseg.types import Batch


class ToyNetwork(Network):
    """Two convolutions with BatchNorm, a backbone and an auxiliary head of its own."""

    def __init__(self, num_classes: int = 4, aux: bool = False):
        super().__init__(num_classes)
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Conv2d(6, num_classes, 1)
        self.aux = nn.Conv2d(6, num_classes, 1) if aux else None

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_with_aux(x)[0]

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.backbone(x)
        return self.head(features), None if self.aux is None else self.aux(features)


def toy_batch(size: int, seed: int = 0, num_classes: int = 4, side: int = 12) -> Batch:
    """Random images and targets with an ignored share that differs from image to image."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 3, side, side, generator=generator)
    targets = torch.randint(0, num_classes, (size, side, side), generator=generator)
    for row in range(size):
        targets[row, : 1 + row % 4] = 255
    return Batch(images, targets, [f"sample-{seed}-{row}" for row in range(size)])
