"""The handling of batches with a loss that is not finite."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from robustseg.terminal.text import complain
from robustseg.training.sharding import own_part, spread
from robustseg.training.split import TrainingError

NonFinitePolicy = Literal["stop", "skip"]

LIMIT = 10
"""Most batches in a row that are skipped; training stops at the next, since then the weights are at fault."""


class NonFiniteLoss:
    """The handling of a batch whose loss is not finite on some rank: all ranks stop, or all leave it out.

    A batch that is left out changes no weight, no state of the optimiser and no statistics of BatchNorm. It still
    counts as a step, also for the schedule. With accumulated gradients its share of the update is zero, and the update
    is left out only if all its batches were. The counts here are not saved for a resume, and the weights do not depend
    on them.

    The ``GradScaler`` of fp16 leaves out updates with overflowing *gradients* by itself; they are not counted here, and
    a batch that is left out here does not change its scale.

    Args:
        policy: ``"stop"`` or ``"skip"``; more than :data:`LIMIT` skipped batches in a row stop training as well.

    Raises:
        ValueError: The policy is neither.
    """

    def __init__(self, policy: NonFinitePolicy):
        if policy not in ("stop", "skip"):
            raise ValueError(f"on_non_finite_loss = {policy!r}: use stop or skip.")
        self.policy: NonFinitePolicy = policy
        self.skipped = 0
        """Number of batches left out by this process."""
        self._in_a_row = 0
        self._in_update = [0, 0]
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def remember(self, model: nn.Module) -> None:
        """Keep copies of the buffers that the forward of an update changes; call it before the forward."""
        if self.policy == "skip":
            self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]

    def leaves_out(self, loss: Tensor, failed: str, where: str) -> bool:
        """Decide on all ranks together if this batch is left out.

        Args:
            loss: This rank's loss, a scalar.
            failed: The reason why this rank has no batch to train on, or an empty string.
            where: Step, samples and rank, for the message.

        Returns:
            True if the batch is left out.
        Raises:
            TrainingError: Training stops here, by the policy or after too many skipped batches in a row.
        """
        bad = torch.ones_like(loss, dtype=torch.int) if failed else (~torch.isfinite(loss)).int()
        here = bad.clone()
        if distributed.is_available() and distributed.is_initialized():
            # All ranks decide together: otherwise the others would hang, waiting for a rank that has stopped or skipped
            # alone.
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
            complain(f"robustseg: {what}: no update from this batch.")
        return True

    def no_loss(self, model: nn.Module) -> Tensor:
        """Return a loss without effect and restore the buffers, after :meth:`leaves_out` returned True.

        The loss reaches every parameter, since DistributedDataParallel waits for the gradients of all.
        """
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)
        self._buffers = []
        spread(model)
        return torch.stack([own_part(p).sum() * 0 for p in model.parameters() if p.requires_grad]).sum()

    def before_update(self, optimizer: Optimizer) -> None:
        """Remove the gradients of an update if all its batches were left out: without gradients nothing changes."""
        batches, skipped = self._in_update
        self._in_update = [0, 0]
        if skipped and batches == skipped:
            optimizer.zero_grad(set_to_none=True)


def refuse_non_finite(model: nn.Module, step: int) -> None:
    """Refuse weights that are not finite, so that they do not replace a good checkpoint.

    Args:
        model: The model.
        step: Step of training, for the message.

    Raises:
        TrainingError: A parameter or buffer is not finite.
    """
    for name, value in model.state_dict().items():
        # The sum comes first, as it takes a tenth of the time: only an overflow makes it differ from the full check.
        if value.is_floating_point() and not value.sum().isfinite() and not bool(value.isfinite().all()):
            raise TrainingError(
                f"{name} is not finite at step {step}, so no checkpoint is written: lower the learning rate and resume "
                "from the last checkpoint with --ckpt_path last."
            )
