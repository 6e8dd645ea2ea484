"""Decoder heads over one feature map; each returns logits at that map's resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustseg.models.errors import ModelError
from robustseg.numerics.resampling import ExactAveragePool2d, spread


class PooledBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm behind global pooling, defined for a batch of one as well.

    Over a 1×1 map, a batch of one in train mode gives one value per channel: no variance, and PyTorch raises. Such
    batches do occur: the last one of an epoch, or the two halves of a split batch of two. For them, the running
    statistics are used and left unchanged, as in eval mode. Raising would end a run hours into it, and normalising by
    the batch would return the bias for any image. ``convert_sync_batchnorm`` turns this layer into SyncBatchNorm, which
    counts the values of all ranks.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise features B×C×h×w."""
        if self.training and input.numel() == input.shape[1] and self.running_mean is not None:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Build a size-preserving convolution without bias, BatchNorm and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class ConvolutionsBesideInput(nn.Module):
    """Convolutions in a row, and one more over the concatenation of their input and their result.

    Source: mmsegmentation, ``FCNHead`` with ``concat_input``.

    Args:
        in_channels: Channels of the features.
        channels: Width of each convolution.
        kernel: Size of each convolution.
        convs: Number of convolutions in the row.

    Shape: B×in_channels×h×w to B×channels×h×w.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, convs: int) -> None:
        super().__init__()
        self.convs = convolutions(in_channels, channels, kernel, convs)
        self.joint = conv_bn_relu(in_channels + channels, channels, kernel)

    def forward(self, features: Tensor) -> Tensor:
        """Return B×channels×h×w for B×in_channels×h×w features."""
        joint: Tensor = self.joint(torch.cat([features, self.convs(features)], dim=1))
        return joint


def convolutions(in_channels: int, channels: int, kernel: int, number: int) -> nn.Sequential:
    """Build ``number`` times :func:`conv_bn_relu`, all of width ``channels``."""
    return nn.Sequential(
        *(conv_bn_relu(in_channels if index == 0 else channels, channels, kernel) for index in range(number))
    )


def pooled_conv(in_channels: int, out_channels: int, bins: int) -> nn.Sequential:
    """Build an average over a ``bins``×``bins`` grid, a 1×1 convolution, BatchNorm and ReLU."""
    return nn.Sequential(
        ExactAveragePool2d(bins),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        PooledBatchNorm2d(out_channels) if bins == 1 else nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class FCNHead(nn.Sequential):
    """Convolutions and a per-pixel classifier; also used as auxiliary head.

    Source: Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, in the form that
    torchvision and mmsegmentation share: on dilated features, without skip connections.

    Args:
        in_channels: Channels of the features.
        num_classes: Number of classes C.
        channels: Width of the hidden layers.
        dropout: Probability of dropping a channel value before the classifier.
        kernel: Size of the convolutions: 3, or 1 in the auxiliary head of DDC-AT's DeepLabV3.
        convs: Number of convolutions before the classifier.
        concat_input: Combine their result and the features in one more convolution, as mmsegmentation's FCN does.

    Raises:
        ModelError: ``kernel`` is not odd, or ``convs`` is less than 1.

    Shape: B×in_channels×h×w to B×C×h×w.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 512,
        dropout: float = 0.1,
        kernel: int = 3,
        convs: int = 1,
        concat_input: bool = False,
    ) -> None:
        check_kernel("kernel", kernel)
        if convs < 1:
            raise ModelError(f"convs = {convs}: a head needs at least one convolution before its classifier.")
        hidden: nn.Module
        if concat_input:
            hidden = ConvolutionsBesideInput(in_channels, channels, kernel, convs)
        elif convs > 1:
            hidden = convolutions(in_channels, channels, kernel, convs)
        else:
            hidden = conv_bn_relu(in_channels, channels, kernel)
        super().__init__(hidden, nn.Dropout(dropout), nn.Conv2d(channels, num_classes, 1))


def check_kernel(name: str, kernel: int) -> None:
    """Refuse a size of convolution that cannot keep the size of its input.

    Raises:
        ModelError: The size is not odd and positive.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ModelError(f"{name} = {kernel}: an odd size expected, such as 1 or 3.")


class PSPHead(nn.Module):
    """Pyramid pooling and a per-pixel classifier.

    Source: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, section 3.2; widths, dropout and the 3×3
    convolution as in the authors' PyTorch code (hszhao/semseg, ``model/pspnet.py``). That code resizes the pooled maps
    with ``align_corners``; without it, feature maps of any size keep their geometry.

    Args:
        in_channels: Channels of the features; each bin is reduced to in_channels / len(bins).
        num_classes: Number of classes C.
        channels: Width of the 3×3 convolution.
        dropout: Probability of dropping a channel value before the classifier.
        bins: Grid sizes of the pyramid.
        align_corners: Resize the pooled maps with aligned corners.

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
        pooled = [spread(branch(features), size, self.align_corners) for branch in self.branches]
        logits: Tensor = self.classifier(torch.cat([features, *pooled], dim=1))
        return logits


class DeepLabV3Head(nn.Module):
    """Atrous spatial pyramid pooling with image-level features, and a per-pixel classifier.

    Source: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv:1706.05587,
    section 3.3; layer by layer as in torchvision, with its dropout of 0.5 as an argument. mmsegmentation projects with
    a 3×3 convolution and DDC-AT with a 1×1, and both classify the projection directly: see ``project_kernel`` and
    ``refine``.

    Args:
        in_channels: Channels of the features.
        num_classes: Number of classes C.
        channels: Width of each branch, of the projection and of the 3×3 convolution.
        dropout: Probability of dropping a channel value after the projection.
        rates: Dilations in feature cells: (6, 12, 18) at stride 16, doubled at stride 8.
        project_kernel: Size of the projection.
        refine: Put a 3×3 convolution between the projection and the classifier.

    Raises:
        ModelError: ``rates`` are not positive, or ``project_kernel`` is not odd.

    Shape: B×in_channels×h×w to B×C×h×w.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 256,
        dropout: float = 0.1,
        rates: Sequence[int] = (12, 24, 36),
        project_kernel: int = 1,
        refine: bool = True,
    ) -> None:
        super().__init__()
        check_kernel("project_kernel", project_kernel)
        if not rates or min(rates) < 1:
            raise ModelError(f"rates = {list(rates)}: at least one dilation expected, each of at least one cell.")
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(in_channels, channels, 1),
                *(conv_bn_relu(in_channels, channels, 3, dilation=rate) for rate in rates),
            ]
        )
        self.image_pooling = pooled_conv(in_channels, channels, 1)
        self.project = nn.Sequential(
            conv_bn_relu(channels * (len(rates) + 2), channels, project_kernel), nn.Dropout(dropout)
        )
        refinement = [conv_bn_relu(channels, channels, 3)] if refine else []
        self.classifier = nn.Sequential(*refinement, nn.Conv2d(channels, num_classes, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return B×C×h×w logits for B×in_channels×h×w features."""
        size = features.shape[-2:]
        # for a 1×1 map, interpolation is a broadcast
        image_level = self.image_pooling(features).expand(-1, -1, *size)
        pyramid = torch.cat([*(branch(features) for branch in self.branches), image_level], dim=1)
        logits: Tensor = self.classifier(self.project(pyramid))
        return logits
