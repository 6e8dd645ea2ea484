"""SegFormer: mix transformers with a head of linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustseg.models.backbone import Backbone
from robustseg.models.errors import ModelError
from robustseg.models.heads import conv_bn_relu
from robustseg.models.network import Network
from robustseg.numerics.resampling import resize

MIX_TRANSFORMERS = {f"mit_b{size}": f"pvt_v2_b{size}" for size in range(6)}
"""timm's PVT v2 of the same depths and widths; a mix transformer differs by an MLP ratio of 4 in every stage."""


class SegFormerHead(nn.Module):
    """A linear layer on each level, another one on all of them at the finest level's resolution, and a classifier.

    Source: Xie et al., "SegFormer", NeurIPS 2021, section 3.2; layer by layer as in NVlabs/SegFormer
    (``segformer_head.py``) and transformers.

    Args:
        in_channels: Channels of each level, the finest first.
        num_classes: Number of classes C.
        channels: Width of every layer.
        dropout: Probability of dropping a channel value before the classifier.
        projection_bn: Put BatchNorm and ReLU behind the linear layer on each level, as mmsegmentation does.

    Shape: B×in_channels[i]×h_i×w_i to B×C×h_0×w_0.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        channels: int = 256,
        dropout: float = 0.1,
        projection_bn: bool = False,
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            conv_bn_relu(width, channels, 1) if projection_bn else nn.Conv2d(width, channels, 1)
            for width in in_channels
        )
        self.fuse = conv_bn_relu(channels * len(in_channels), channels, 1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return B×C×h×w logits at the resolution of the first level."""
        size = features[0].shape[-2:]
        projected = [resize(project(level), size) for project, level in zip(self.projections, features, strict=True)]
        # the coarsest level first, as in the authors' checkpoints
        logits: Tensor = self.classifier(self.dropout(self.fuse(torch.cat(projected[::-1], dim=1))))
        return logits


class SegFormer(Network):
    """A SegFormer over a mix transformer or any backbone with four feature levels; see :class:`SegFormerHead`.

    Args:
        num_classes: Number of classes C.
        backbone: ``mit_b0`` to ``mit_b5``, or any name in ``timm.list_models()`` with at least four levels.
        channels: Width of the head; null for the paper's: 256 for mit_b0 and mit_b1, and 768 for others.
        dropout: Probability of dropping a channel value before the classifier, 0 <= dropout < 1.
        projection_bn: Put BatchNorm and ReLU behind the linear layer on each level, as mmsegmentation does.
        norm_eps: The eps of every LayerNorm in the backbone, added to the variance; null for the authors': 1e-6 in
            blocks and behind stages, and 1e-5 elsewhere. transformers has 1e-5 in all of them, mmsegmentation 1e-6.
        pretrained: Let timm download the backbone's weights; it has none for mix transformers.
        weights: Local file of weights for the backbone instead of a download (.pth, .pt or .safetensors), with timm's
            names.
        backbone_args: Further arguments of the timm architecture, such as ``drop_path_rate``.

    Raises:
        ModelError: An argument is out of range, or timm refuses the backbone or the weights.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "mit_b0",
        channels: int | None = None,
        dropout: float = 0.1,
        projection_bn: bool = False,
        norm_eps: float | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        backbone_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes)
        width = (256 if backbone in ("mit_b0", "mit_b1") else 768) if channels is None else channels
        if width < 1:
            raise ModelError(f"channels = {channels}: a head needs at least one.")
        if not 0.0 <= dropout < 1.0:
            raise ModelError(f"dropout = {dropout}: a probability in [0, 1) expected.")
        if norm_eps is not None and not 0.0 < norm_eps < 1.0:
            raise ModelError(f"norm_eps = {norm_eps}: a small positive number such as 1e-6, or null, expected.")
        if backbone in MIX_TRANSFORMERS:
            if pretrained:
                raise ModelError(f"pretrained = true: timm has no weights of {backbone}; give weights: FILE, or false.")
            backbone_args = {"mlp_ratios": (4, 4, 4, 4)} | (backbone_args or {})
        elif backbone.startswith("mit_"):
            raise ModelError(f"backbone {backbone!r}: mix transformers are mit_b0 to mit_b5.")
        self.backbone = Backbone(
            MIX_TRANSFORMERS.get(backbone, backbone), None, pretrained, weights, backbone_args, levels=4
        )
        if len(set(self.backbone.strides)) < 4:
            raise ModelError(
                f"backbone {backbone} has levels of strides {', '.join(map(str, self.backbone.strides))}: SegFormer "
                f"needs four that differ, as those of mit_b0."
            )
        self.projection_bn = projection_bn
        self.norm_eps = norm_eps
        if norm_eps is not None:
            for module in self.backbone.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eps = norm_eps
        self.image_mean, self.image_std = self.backbone.mean, self.backbone.std
        self.head = SegFormerHead(self.backbone.channels, num_classes, width, dropout, projection_bn)

    def forward(self, x: Tensor) -> Tensor:
        """Return B×C×h×w logits at stride 4, for normalised B×3×H×W images."""
        logits: Tensor = self.head(self.backbone(x))
        return logits
