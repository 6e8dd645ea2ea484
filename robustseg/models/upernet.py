"""UPerNet over the feature pyramid of any timm backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from robustseg.models.backbone import Backbone
from robustseg.models.errors import ModelError
from robustseg.models.heads import FCNHead, PooledBatchNorm2d, conv_bn_relu, pooled_conv
from robustseg.models.network import Network
from robustseg.numerics.resampling import resize, spread


class UPerHead(nn.Module):
    """Pyramid pooling of the coarsest level, a feature pyramid over the others, and a classifier.

    Source: Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018; layer by layer
    as in mmsegmentation (``uper_head.py``) and transformers.

    Args:
        in_channels: Channels of each level, the finest first.
        num_classes: Number of classes C.
        channels: Width of every layer.
        dropout: Probability of dropping a channel value before the classifier.
        bins: Grid sizes of the pooling.

    Shape: B×in_channels[i]×h_i×w_i to B×C×h_0×w_0.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        channels: int = 512,
        dropout: float = 0.1,
        bins: Sequence[int] = (1, 2, 3, 6),
    ) -> None:
        super().__init__()
        *finer, coarsest = in_channels
        self.pooling = nn.ModuleList(pooled_conv(coarsest, channels, size) for size in bins)
        self.bottleneck = conv_bn_relu(coarsest + channels * len(bins), channels, 3)
        # images of less than 64 pixels have a single cell at stride 32
        self.bottleneck[1] = PooledBatchNorm2d(channels)
        self.lateral = nn.ModuleList(conv_bn_relu(width, channels, 1) for width in finer)
        self.smooth = nn.ModuleList(conv_bn_relu(channels, channels, 3) for _ in finer)
        self.fuse = conv_bn_relu(channels * len(in_channels), channels, 3)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return B×C×h×w logits at the resolution of the first level."""
        *finer, coarsest = features
        pooled = [spread(branch(coarsest), coarsest.shape[-2:]) for branch in self.pooling]
        levels = [self.bottleneck(torch.cat([coarsest, *pooled], dim=1))]
        for lateral, level in zip(reversed(self.lateral), reversed(finer), strict=True):
            levels.insert(0, lateral(level) + resize(levels[0], level.shape[-2:]))
        smoothed = [smooth(level) for smooth, level in zip(self.smooth, levels[:-1], strict=True)]
        pyramid = [resize(level, features[0].shape[-2:]) for level in (*smoothed, levels[-1])]
        logits: Tensor = self.classifier(self.dropout(self.fuse(torch.cat(pyramid, dim=1))))
        return logits


class UPerNet(Network):
    """A UPerNet, by default over ConvNeXt-T as in mmsegmentation; see :class:`UPerHead`.

    ``conv_stem`` gives the networks of PIR-AT (Croce et al., "Towards Reliable Evaluation and Fast Training of Robust
    Semantic Segmentation Models", ECCV 2024), which are trained with ``raw_images``.

    Args:
        num_classes: Number of classes C.
        backbone: Any name in ``timm.list_models()`` with at least four feature levels.
        channels: Width of the head. The auxiliary head is as wide, but at most 256.
        level_norms: Apply a LayerNorm over the channels of each level before the head, for backbones without one at the
            end of their levels, such as ConvNeXt and Swin; false for ResNets.
        conv_stem: Replace the 4×4 patches at the input by two or three 3×3 convolutions (ConvStem, CvSt); ConvNeXts
            only.
        raw_images: Take images in [0, 1] without normalisation.
        aux_head: Add an auxiliary head on the level before the last, for deep supervision.
        dropout: Probability of dropping a channel value before the classifier, 0 <= dropout < 1.
        pretrained: Let timm download the backbone's weights; it has none for backbones with ``conv_stem``.
        weights: Local file of weights for the backbone instead of a download (.pth, .pt or .safetensors).
        backbone_args: Further arguments of the timm architecture, such as ``drop_path_rate``.

    Raises:
        ModelError: An argument is out of range, or timm refuses the backbone or the weights.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "convnext_tiny",
        channels: int = 512,
        level_norms: bool = True,
        conv_stem: bool = False,
        raw_images: bool = False,
        aux_head: bool = True,
        dropout: float = 0.1,
        pretrained: bool = False,
        weights: str | None = None,
        backbone_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes)
        if channels < 1:
            raise ModelError(f"channels = {channels}: a head needs at least one.")
        if not 0.0 <= dropout < 1.0:
            raise ModelError(f"dropout = {dropout}: a probability in [0, 1) expected.")
        if conv_stem and pretrained:
            raise ModelError("pretrained = true: timm has no weights of a conv_stem; give weights: FILE, or false.")
        self.conv_stem = conv_stem
        self.backbone = Backbone(
            backbone,
            None,
            pretrained,
            weights,
            backbone_args,
            levels=4,
            conv_stem=conv_stem,
            raw_images=raw_images,
        )
        if len(set(self.backbone.strides)) < 4:
            raise ModelError(
                f"backbone {backbone} has levels of strides {', '.join(map(str, self.backbone.strides))}: UPerNet "
                f"needs four that differ, as those of convnext_tiny, swin_tiny_patch4_window7_224 or resnet50."
            )
        self.image_mean, self.image_std = self.backbone.mean, self.backbone.std
        widths = self.backbone.channels
        self.level_norms = nn.ModuleList(LayerNorm2d(width, eps=1e-6) for width in widths) if level_norms else None
        self.head = UPerHead(widths, num_classes, channels, dropout)
        self.aux_head = FCNHead(widths[-2], num_classes, min(channels, 256), dropout) if aux_head else None

    def forward(self, x: Tensor) -> Tensor:
        """Return B×C×h×w logits at stride 4, for normalised B×3×H×W images."""
        logits: Tensor = self.head(self._levels(x))
        return logits

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits and the auxiliary head's, or None without one; see :meth:`Network.forward_with_aux`."""
        levels = self._levels(x)
        return self.head(levels), None if self.aux_head is None else self.aux_head(levels[-2])

    def _levels(self, x: Tensor) -> Sequence[Tensor]:
        levels: Sequence[Tensor] = self.backbone(x)
        if self.level_norms is None:
            return levels
        return [norm(level) for norm, level in zip(self.level_norms, levels, strict=True)]
