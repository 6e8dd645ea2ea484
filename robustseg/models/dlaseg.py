"""Segmentation networks with deep layer aggregation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustseg.models.backbone import Backbone
from robustseg.models.errors import ModelError
from robustseg.models.heads import conv_bn_relu
from robustseg.models.network import Network
from robustseg.models.upsampling import bilinear_upsampling

LEVELS = 6
"""Feature levels of a DLA network, at strides 1 to 32."""


class DLASeg(Network):
    """A DLA backbone with levels merged by iterative deep aggregation, a classifier, and fixed interpolation.

    Source: Yu et al., "Deep Layer Aggregation", CVPR 2018, section 4.2; ``DLASeg`` of the authors' code
    (ucbdrive/dla, ``dla_up.py``), but with logits instead of log-probabilities. The authors' code fails for sides that
    are no multiples of 32; here such images are padded with the mean colour at the right and at the bottom.

    Args:
        num_classes: Number of classes C.
        backbone: ``dla34``, ``dla60``, ``dla102``, ``dla169`` or another of timm's DLA networks, with or without a
            pretrained tag.
        down_ratio: Input pixels per cell of the classified map: 2 (as published), 4, 8 or 16.
        pretrained: Let timm download the backbone's weights.
        weights: Local file of weights for the backbone instead of a download (.pth, .pt or .safetensors), with timm's
            or the authors' names.
        backbone_args: Further arguments of the timm architecture, such as ``channels`` and ``levels``.

    Raises:
        ModelError: An argument is out of range, or timm refuses the backbone or the weights.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "dla34",
        down_ratio: int = 2,
        pretrained: bool = False,
        weights: str | None = None,
        backbone_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes)
        if not backbone.startswith("dla"):
            raise ModelError(f"backbone = {backbone!r}: a DLA network of timm's, such as dla34, expected.")
        if down_ratio not in (2, 4, 8, 16):
            raise ModelError(f"down_ratio = {down_ratio}: 2, 4, 8 or 16 expected.")
        levels = LEVELS - int(math.log2(down_ratio))
        self.backbone = Backbone(backbone, None, pretrained, weights, backbone_args, levels)
        self.image_mean, self.image_std = self.backbone.mean, self.backbone.std
        self.decoder = DLAUp(self.backbone.channels)
        self.classifier = nn.Conv2d(self.backbone.channels[0], num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=math.sqrt(2 / num_classes))
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]
        self.upsampling = bilinear_upsampling(num_classes, down_ratio, down_ratio // 2, grouped=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return B×C×H×W logits for normalised B×3×H×W images."""
        height, width = x.shape[-2:]
        # zero is the mean colour after the normalisation
        padded = F.pad(x, (0, -width % self.backbone.stride, 0, -height % self.backbone.stride))
        logits: Tensor = self.upsampling(self.classifier(self.decoder(self.backbone(padded))))
        return logits[..., :height, :width]


class DLAUp(nn.Module):
    """A merge of levels, each at half the resolution of the one before, into one map at the first level's resolution.

    The steps go from coarse to fine; the first one starts at the two coarsest levels. Each step takes the next finer
    level and merges into it, one by one, the starting level and the maps of the step before.

    Args:
        channels: Channels of each level, the finest first.

    Shape: levels B×channels[i]×h/2^i×w/2^i to B×channels[0]×h×w.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(channels))[::-1]
        self.steps = nn.ModuleList(IDAUp(fine, coarse, count) for count, (fine, coarse) in enumerate(pairs, start=1))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the merged map, B×channels[0]×h×w."""
        coarser = [levels[-1]]
        for step, fine in zip(self.steps, reversed(levels[:-1]), strict=True):
            coarser = [fine, *step(fine, coarser)]
        return coarser[-1]


class IDAUp(nn.Module):
    """Iterative deep aggregation of a level and several maps at half its resolution.

    Args:
        channels: Channels of the level, and of the returned maps.
        coarse_channels: Channels of each of the coarser maps.
        count: Number of the coarser maps.
    """

    def __init__(self, channels: int, coarse_channels: int, count: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            conv_bn_relu(coarse_channels, channels, 1) if coarse_channels != channels else nn.Identity()
            for _ in range(count)
        )
        self.upsamplings = nn.ModuleList(
            bilinear_upsampling(channels, 2, padding=1, grouped=True, learned=True) for _ in range(count)
        )
        self.nodes = nn.ModuleList(conv_bn_relu(2 * channels, channels, 3) for _ in range(count))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, fine: Tensor, coarse: Sequence[Tensor]) -> list[Tensor]:
        """Merge the B×coarse_channels×h/2×w/2 maps in one by one, and return the B×channels×h×w result of each step."""
        merged = []
        for project, upsample, node, level in zip(self.projections, self.upsamplings, self.nodes, coarse, strict=True):
            fine = node(torch.cat([fine, upsample(project(level))], dim=1))
            merged.append(fine)
        return merged
