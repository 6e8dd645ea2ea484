"""An answer that is not a number, in any single forward, is refused: it would pass for fooled."""

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import AttackError
from tests.helpers.nets import tiny_batch, tiny_net

from .table import ATTACKS, ROWS, build

BROKEN = (float("nan"), float("inf"))


class BrokenOnce(nn.Module):
    """Gives NaN or infinity in one of its forwards."""

    def __init__(self, at: int):
        super().__init__()
        self.net = tiny_net(torch.float32)
        self.at = at
        self.forwards = 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        logits: Tensor = self.net(images)
        return logits * BROKEN[self.at % 2] if self.forwards == self.at else logits


@pytest.mark.parametrize("name", [name for name in ATTACKS if ROWS[name].asks])
def test_every_forward_is_looked_at(name: str):
    images, targets = tiny_batch(torch.float32)
    whole = BrokenOnce(0)
    build(name)(whole, images, targets)
    for at in range(1, whole.forwards + 1):
        with pytest.raises(AttackError, match="not finite"):
            build(name)(BrokenOnce(at), images, targets)
