"""A network that takes its time on any machine."""

from __future__ import annotations

import time

from torch import Tensor

from robustseg.models import FCN


class Slow(FCN):
    """FCN with a pause of 10 ms in each forward."""

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(0.01)
        return super().forward(images)
