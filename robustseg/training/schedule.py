"""Learning rate schedules per optimiser step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pytorch_lightning as pl
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from robustseg.training.split import TrainingError

ScheduleName = Literal["poly", "cosine", "constant"]


@dataclass
class LearningRateFactor:
    """Factor on the base learning rate as a function of the optimiser step, callable by ``LambdaLR``.

    ``poly`` is (1 − s/S)^0.9, as in PSPNet and DeepLab and the papers that attack them; ``cosine`` is ½(1 + cos πs/S).
    A linear warm-up comes first if ``warmup_steps`` is positive.

    Args:
        name: ``"poly"``, ``"cosine"`` or ``"constant"``.
        steps: S, the number of optimiser steps of the run.
        warmup_steps: Steps over which the factor rises linearly to the schedule.
        power: Exponent of ``poly``.
    """

    name: ScheduleName
    steps: int
    warmup_steps: int = 0
    power: float = 0.9

    def __call__(self, step: int) -> float:
        """Return the factor at optimiser step ``step``, counted from 0."""
        progress = min(step / max(self.steps, 1), 1.0)
        factors: dict[ScheduleName, float] = {
            "poly": (1 - progress) ** self.power,
            "cosine": (1 + math.cos(math.pi * progress)) / 2,
            "constant": 1.0,
        }
        return factors[self.name] * min(1.0, (step + 1) / (self.warmup_steps + 1))


def scheduler_of(optimizer: Optimizer, name: ScheduleName, trainer: pl.Trainer, warmup_steps: int) -> LambdaLR:
    """Return the scheduler of a run, with :class:`LearningRateFactor`.

    Args:
        optimizer: The optimiser, before training.
        name: Name of the schedule.
        trainer: The trainer of the run; a trial of a few batches may end within its warm-up.
        warmup_steps: Steps of the warm-up.

    Raises:
        TrainingError: The run has no end or ends within the warm-up, or a learning rate is not finite.
    """
    steps = trainer.estimated_stepping_batches
    trial = bool(trainer.fast_dev_run) or trainer.limit_train_batches != 1.0  # type: ignore[attr-defined]
    if math.isinf(steps):
        raise TrainingError("a learning rate schedule needs an end: set trainer.max_epochs or trainer.max_steps.")
    for group in optimizer.param_groups:
        if isinstance(group["lr"], float) and not 0 <= group["lr"] < math.inf:
            raise TrainingError(f"model.optimizer: lr = {group['lr']}: use a finite number.")
    if warmup_steps >= steps and not trial:
        raise TrainingError(
            f"model.warmup_steps = {warmup_steps}, but the run has {int(steps)} steps: the learning rate would never "
            "be the optimiser's; lower it, or train longer."
        )
    factor = LearningRateFactor(name, int(steps), warmup_steps)
    # A function, not the callable object: LambdaLR saves an object's attributes, and on resuming it would restore
    # the old run's length and schedule.
    return LambdaLR(optimizer, lambda step: factor(step))
