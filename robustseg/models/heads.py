"""Decoder heads over one feature map; each returns logits at that map's resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PooledBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm behind global pooling that stays defined for a batch of one.

    Over a 1×1 map, a batch of one in train mode gives one value per channel: no variance, and PyTorch raises. Such
    batches do occur (the last one of an epoch, or the two halves of a split batch of two), so the running
    statistics are used for them and left as they are, as in eval mode. Raising would end a run hours into it, and
    normalising by the batch would return the bias whatever the image shows. ``convert_sync_batchnorm`` turns
    this into SyncBatchNorm, which counts the values of all ranks.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise B×C×h×w."""
        if self.training and input.numel() == input.shape[1] and self.running_mean is not None:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Size-preserving convolution without bias, BatchNorm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def pooled_conv(in_channels: int, out_channels: int, bins: int) -> nn.Sequential:
    """Average over a ``bins``×``bins`` grid, 1×1 convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(bins),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        PooledBatchNorm2d(out_channels) if bins == 1 else nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class FCNHead(nn.Sequential):
    """3×3 convolution and per-pixel classifier; also the auxiliary head.

    Source: Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, in the form that
    torchvision and mmsegmentation share: on dilated features, without skip connections.

    Args:
        in_channels: Channels of the features.
        num_classes: C.
        channels: Width of the hidden layer.
        dropout: Probability of dropping a channel value before the classifier.

    Shape: B×in_channels×h×w to B×C×h×w.
    """

    def __init__(self, in_channels: int, num_classes: int, channels: int = 512, dropout: float = 0.1) -> None:
        super().__init__(
            conv_bn_relu(in_channels, channels, 3), nn.Dropout(dropout), nn.Conv2d(channels, num_classes, 1)
        )


class PSPHead(nn.Module):
    """Pyramid pooling and classifier.

    Source: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, section 3.2; widths, dropout and the 3×3
    convolution as in the authors' PyTorch code (hszhao/semseg, ``model/pspnet.py``), which resizes the pooled maps
    with ``align_corners``; without it feature maps of any size keep their geometry.

    Args:
        in_channels: Channels of the features; each bin is reduced to in_channels / len(bins).
        num_classes: C.
        channels: Width of the 3×3 convolution.
        dropout: Probability of dropping a channel value before the classifier.
        bins: Grid sizes of the pyramid.
        align_corners: Keep the centres of the corners in place when the pooled maps are resized.

    Shape: B×in_channels×h×w to B×C×h×w.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 512,
        dropout: float = 0.1,
        bins: Sequence[int] = (1, 2, 3, 6),
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        width = max(1, in_channels // len(bins))
        self.branches = nn.ModuleList(pooled_conv(in_channels, width, size) for size in bins)
        self.classifier = FCNHead(in_channels + width * len(bins), num_classes, channels, dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Return B×C×h×w logits for B×in_channels×h×w features."""
        size = features.shape[-2:]
        pooled = [
            F.interpolate(branch(features), size, mode="bilinear", align_corners=self.align_corners)
            for branch in self.branches
        ]
        logits: Tensor = self.classifier(torch.cat([features, *pooled], dim=1))
        return logits


class DeepLabV3Head(nn.Module):
    """Atrous spatial pyramid pooling with image-level features, and classifier.

    Source: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv:1706.05587,
    section 3.3; layer by layer as in torchvision, whose dropout of 0.5 is an argument here.

    Args:
        in_channels: Channels of the features.
        num_classes: C.
        channels: Width of each branch, of the projection and of the 3×3 convolution.
        dropout: Probability of dropping a channel value after the projection.
        rates: Dilations in feature cells: (6, 12, 18) at stride 16, doubled at stride 8.

    Shape: B×in_channels×h×w to B×C×h×w.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 256,
        dropout: float = 0.1,
        rates: Sequence[int] = (12, 24, 36),
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(in_channels, channels, 1),
                *(conv_bn_relu(in_channels, channels, 3, dilation=rate) for rate in rates),
            ]
        )
        self.image_pooling = pooled_conv(in_channels, channels, 1)
        self.project = nn.Sequential(conv_bn_relu(channels * (len(rates) + 2), channels, 1), nn.Dropout(dropout))
        self.classifier = nn.Sequential(conv_bn_relu(channels, channels, 3), nn.Conv2d(channels, num_classes, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return B×C×h×w logits for B×in_channels×h×w features."""
        size = features.shape[-2:]
        # a 1×1 map: interpolation from a single cell is a broadcast
        image_level = self.image_pooling(features).expand(-1, -1, *size)
        pyramid = torch.cat([*(branch(features) for branch in self.branches), image_level], dim=1)
        logits: Tensor = self.classifier(self.project(pyramid))
        return logits
