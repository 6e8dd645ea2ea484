"""Transposed convolutions that begin as bilinear interpolation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def bilinear_kernel(factor: int) -> Tensor:
    """Return the bilinear kernel, 2·factor × 2·factor, of a transposed convolution of stride ``factor``.

    Source: Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 3.3.
    """
    centre = factor - 0.5
    profile = 1.0 - (torch.arange(2 * factor, dtype=torch.float32) - centre).abs() / factor
    return profile[:, None] * profile[None, :]


def bilinear_upsampling(
    channels: int, factor: int, padding: int = 0, grouped: bool = False, learned: bool = False
) -> nn.ConvTranspose2d:
    """Build a transposed convolution of kernel 2·factor and stride factor that begins as bilinear interpolation.

    Args:
        channels: Channels of its input and of its output.
        factor: Output cells per input cell.
        padding: Cells cut from each side of the output; factor / 2 for an output of exactly factor times the size.
        grouped: Give each channel one kernel of its own. Otherwise every output channel has a kernel for each input
            channel, and those for other channels begin as zeros.
        learned: Train the kernels; otherwise they take no gradient and stay fixed.
    """
    groups = channels if grouped else 1
    layer = nn.ConvTranspose2d(
        channels, channels, 2 * factor, stride=factor, padding=padding, groups=groups, bias=False
    ).requires_grad_(learned)
    with torch.no_grad():
        layer.weight.zero_()
        for channel in range(channels):
            layer.weight[channel, 0 if grouped else channel] = bilinear_kernel(factor)
    return layer
