"""Segmentation networks over dilated residual networks."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from robustseg.models.drn import DRN
from robustseg.models.errors import ModelError
from robustseg.models.network import Network
from robustseg.models.upsampling import bilinear_upsampling

Upsampling = Literal["fixed", "learned", "bilinear"]


class DRNSeg(Network):
    """A per-pixel classifier over the features of a dilated residual network, interpolated to the image's size.

    Source: Yu et al., "Dilated Residual Networks", CVPR 2017, section 5.3; ``DRNSeg`` of the authors' code (fyu/drn,
    ``segment.py``), but with logits instead of log-probabilities.

    Args:
        num_classes: Number of classes C.
        backbone: ``drn_d_22``, ``drn_d_38``, ``drn_d_54``, ``drn_d_105``, ``drn_c_26``, ``drn_c_42`` or ``drn_c_58``.
        width: Channels of the backbone's first layer; the others are in proportion. 16 as published.
        upsampling: ``fixed``: a transposed convolution with bilinear kernels that are not trained, as published;
            ``learned``: the same with trained kernels; ``bilinear``: interpolation with aligned corners, as with the
            authors' ``use_torch_up``.
        weights: Local file of the authors' ImageNet weights for the backbone (.pth, .pt or .safetensors). timm has no
            such weights.

    Raises:
        ModelError: An argument is out of range, or the weights do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "drn_d_22",
        width: int = 16,
        upsampling: Upsampling = "fixed",
        weights: str | None = None,
    ) -> None:
        super().__init__(num_classes)
        if upsampling not in ("fixed", "learned", "bilinear"):
            raise ModelError(f"upsampling = {upsampling!r}: fixed, learned or bilinear expected.")
        self.align_corners = upsampling == "bilinear"
        self.backbone = DRN(backbone, width, weights)
        self.classifier = nn.Conv2d(self.backbone.channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=math.sqrt(2 / num_classes))
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]
        stride = self.backbone.stride
        self.upsampling = (
            None
            if upsampling == "bilinear"
            else bilinear_upsampling(num_classes, stride, stride // 2, grouped=True, learned=upsampling == "learned")
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return B×C×H×W logits for normalised B×3×H×W images, or B×C×⌈H/8⌉×⌈W/8⌉ with bilinear upsampling."""
        logits: Tensor = self.classifier(self.backbone(x))
        if self.upsampling is None:
            return logits
        height, width = x.shape[-2:]
        # images with sides that are no multiples of 8 have incomplete last cells
        return self.upsampling(logits)[..., :height, :width]  # type: ignore[no-any-return]
