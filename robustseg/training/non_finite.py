"""What to do about a batch whose loss is not finite."""

from __future__ import annotations

import sys
from typing import Literal

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from robustseg.training.split import TrainingError

NonFinitePolicy = Literal["stop", "skip"]

LIMIT = 10
"""Batches in a row that are skipped before training stops: by then it is the weights that are no good."""


class NonFiniteLoss:
    """Stops training at, or leaves out, a batch whose loss is not finite on some rank; all ranks do the same.

    A batch that is left out changes nothing: no weight, no state of the optimiser, no statistics of BatchNorm. It
    counts as a step all the same, also for the schedule. Where gradients are accumulated its share of the update is
    zero, and the update is left out only if all its batches were. Nothing of it is kept over a resume, nor is there
    anything that the weights depend on.

    The ``GradScaler`` of fp16 leaves out updates by itself, those whose *gradients* overflow; they are not counted
    here, and a batch that is left out here does not change its scale.

    Args:
        policy: ``"stop"`` or ``"skip"``, more than :data:`LIMIT` of which in a row stop as well.

    Raises:
        ValueError: Another policy.
    """

    def __init__(self, policy: NonFinitePolicy):
        if policy not in ("stop", "skip"):
            raise ValueError(f"on_non_finite_loss = {policy!r}: use stop or skip.")
        self.policy: NonFinitePolicy = policy
        self.skipped = 0
        """Batches left out by this process."""
        self._in_a_row = 0
        self._in_update = [0, 0]
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def remember(self, model: nn.Module) -> None:
        """Before the forward of an update: keep the buffers that it changes."""
        if self.policy == "skip":
            self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]

    def leaves_out(self, loss: Tensor, failed: str, where: str) -> bool:
        """Whether this batch is to be left out, on all ranks.

        Args:
            loss: This rank's, a scalar.
            failed: Why there is no batch to have a loss of, or nothing.
            where: Step, samples and rank, for the message.

        Raises:
            TrainingError: To stop.
        """
        bad = torch.ones_like(loss, dtype=torch.int) if failed else (~torch.isfinite(loss)).int()
        here = bad.clone()
        if distributed.is_available() and distributed.is_initialized():
            # The others would wait for a rank that stops or leaves out a batch by itself for ever.
            distributed.all_reduce(bad, distributed.ReduceOp.MAX)
        self._in_update[0] += 1
        if not bool(bad):
            self._in_a_row = 0
            return False
        what = failed or f"the loss is {loss.item()} at {where}"
        if not bool(here):
            what = f"another rank cannot go on at {where}"
        self.skipped += 1
        self._in_a_row += 1
        self._in_update[1] += 1
        if self.policy == "stop" or self._in_a_row > LIMIT:
            row = f", the batch number {self._in_a_row} in a row" if self._in_a_row > 1 else ""
            raise TrainingError(
                f"{what}{row}: lower the learning rate or look at these samples; resume from the last checkpoint with "
                "--ckpt_path last."
            )
        if bool(here):
            print(f"robustseg: {what}: no update from this batch.", file=sys.stderr, flush=True)
        return True

    def no_loss(self, model: nn.Module) -> Tensor:
        """After :meth:`leaves_out`: a loss without effect, with the buffers back as they were.

        It reaches every parameter, since DistributedDataParallel waits for the gradients of all.
        """
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)
        self._buffers = []
        return torch.stack([parameter.sum() * 0 for parameter in model.parameters() if parameter.requires_grad]).sum()

    def before_update(self, optimizer: Optimizer) -> None:
        """Take the gradients away from an update that nothing was learnt for: without any, nothing moves."""
        batches, skipped = self._in_update
        self._in_update = [0, 0]
        if skipped and batches == skipped:
            optimizer.zero_grad(set_to_none=True)
