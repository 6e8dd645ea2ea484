"""Networks that look robust without being so, selectable by class path."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustseg.models import FCN


class OneHotFCN(FCN):
    """Answers with the one-hot prediction: no gradient at all."""

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot(super().forward(x).argmax(1), self.num_classes).permute(0, 3, 1, 2).to(x.dtype)


class RoundingFCN(FCN):
    """Rounds its input to a few levels: the gradient is zero everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 8).round() / 8)


class NoisyFCN(FCN):
    """Adds noise at test time."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.2 * torch.randn_like(x))
