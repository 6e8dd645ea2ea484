"""State that ranks share."""

from __future__ import annotations

import torch
from torch import nn


def share_buffers(model: nn.Module) -> None:
    """Broadcast rank 0's buffers: BatchNorm's statistics differ after each rank's own part of the last batch.

    DistributedDataParallel broadcasts them before each step except the first one after a validation. A run that
    continues from a checkpoint written in between would begin that step with rank 0's, so all ranks must have them.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
