"""Dilated residual networks, which timm lacks, with the tensor names of their authors' code."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor, nn

from robustseg.models.checkpoints.read import read_state_dict, without_prefix
from robustseg.models.errors import ModelError
from robustseg.models.starts import load_start

CHANNELS = (16, 32, 64, 128, 256, 512, 512, 512)
"""Channels of layer1 to layer8; a bottleneck's output has four times as many."""
DILATIONS = (1, 1, 1, 1, 2, 4, 2, 1)
"""Dilation of layer1 to layer8."""


UNUSED = ("fc.", "layer7.0.downsample.")
"""Keys of the authors' files without effect on the features: the classifier, and a shortcut that is not added."""


class _Design(NamedTuple):
    arch: Literal["C", "D"]
    bottleneck: bool
    depths: tuple[int, ...]


ARCHITECTURES = {
    "drn_c_26": _Design("C", False, (1, 1, 2, 2, 2, 2, 1, 1)),
    "drn_c_42": _Design("C", False, (1, 1, 3, 4, 6, 3, 1, 1)),
    "drn_c_58": _Design("C", True, (1, 1, 3, 4, 6, 3, 1, 1)),
    "drn_d_22": _Design("D", False, (1, 1, 2, 2, 2, 2, 1, 1)),
    "drn_d_24": _Design("D", False, (1, 1, 2, 2, 2, 2, 2, 2)),
    "drn_d_38": _Design("D", False, (1, 1, 3, 4, 6, 3, 1, 1)),
    "drn_d_40": _Design("D", False, (1, 1, 3, 4, 6, 3, 2, 2)),
    "drn_d_54": _Design("D", True, (1, 1, 3, 4, 6, 3, 1, 1)),
    "drn_d_56": _Design("D", True, (1, 1, 3, 4, 6, 3, 2, 2)),
    "drn_d_105": _Design("D", True, (1, 1, 3, 4, 23, 3, 1, 1)),
    "drn_d_107": _Design("D", True, (1, 1, 3, 4, 23, 3, 2, 2)),
}
"""Variant, kind of block in layer3 to layer6, and blocks (or convolutions) in layer1 to layer8."""


class DRN(nn.Module):
    """Features of a dilated residual network at stride 8.

    Source: Yu et al., "Dilated Residual Networks", CVPR 2017, section 4 and figure 5; the variants D and the names of
    the tensors follow the authors' code (fyu/drn).

    Args:
        name: One of :data:`ARCHITECTURES`.
        width: Channels of layer1; the others are in proportion.
        weights: Local file of the authors' classification weights; its classifier is left out.

    Attributes:
        channels: Channels of the features.
        stride: Input pixels per feature cell.

    Raises:
        ModelError: The name is unknown, the width is out of range, or the weights belong to another network.
    """

    stride = 8

    def __init__(self, name: str = "drn_d_22", width: int = 16, weights: str | None = None) -> None:
        super().__init__()
        if name not in ARCHITECTURES:
            raise ModelError(f"backbone = {name!r}: one of {', '.join(ARCHITECTURES)} expected.")
        if width < 1:
            raise ModelError(f"width = {width}: at least one channel in layer1 expected.")
        design = ARCHITECTURES[name]
        widths = [channels * width // CHANNELS[0] for channels in CHANNELS]
        self.channels = widths[0]
        stem = [nn.Conv2d(3, self.channels, 7, padding=3, bias=False), nn.BatchNorm2d(self.channels), nn.ReLU(True)]
        if design.arch == "D":
            self.layer0 = nn.Sequential(*stem)
        else:
            self.conv1, self.bn1, self.relu = stem
        for index, (channels, depth) in enumerate(zip(widths, design.depths, strict=True)):
            self.add_module(f"layer{index + 1}", self._layer(design, index, channels, depth))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if weights is not None:
            state = without_prefix(read_state_dict(weights), "module.")
            load_start(self, state, UNUSED, name, weights)

    def forward(self, x: Tensor) -> Tensor:
        """Return B×channels×⌈H/8⌉×⌈W/8⌉ features for normalised B×3×H×W images."""
        for layer in self.children():
            x = layer(x)
        return x

    def _layer(self, design: _Design, index: int, channels: int, depth: int) -> nn.Sequential:
        """Build one of the eight layers, and update ``self.channels`` to its output's channels."""
        stride = 2 if index in (1, 2, 3) else 1
        residual_blocks = 2 <= index <= 5
        if design.arch == "D" and not residual_blocks:
            return self._convolutions(channels, depth, stride, DILATIONS[index])
        block = _Bottleneck if design.bottleneck and residual_blocks else _BasicBlock
        blocks: list[nn.Module] = []
        for number in range(depth):
            # layer7 and layer8 remove the gridding of the dilations; skip connections would carry it on (section 4)
            new = block(self.channels, channels, stride if number == 0 else 1, DILATIONS[index], residual=index < 6)
            blocks.append(new)
            self.channels = new.out_channels
        return nn.Sequential(*blocks)

    def _convolutions(self, channels: int, depth: int, stride: int, dilation: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for number in range(depth):
            first = stride if number == 0 else 1
            layers += [
                nn.Conv2d(self.channels, channels, 3, first, dilation, dilation, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
            self.channels = channels
        return nn.Sequential(*layers)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class _BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int, residual: bool) -> None:
        super().__init__()
        self.out_channels = channels
        self.residual = residual
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        # in the authors' code, blocks without residual have one too, which is never used
        self.downsample = _shortcut(in_channels, channels, stride) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.residual:
            out = out + (x if self.downsample is None else self.downsample(x))
        activated: Tensor = self.relu(out)
        return activated


class _Bottleneck(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int, residual: bool) -> None:
        super().__init__()
        self.out_channels = 4 * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, 4 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        activated: Tensor = self.relu(out + (x if self.downsample is None else self.downsample(x)))
        return activated
