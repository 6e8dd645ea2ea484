"""The average of weights over the steps of training."""

from __future__ import annotations

from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(WeightAveraging):
    """The exponential moving average of weights and BatchNorm statistics, which is validated, saved and evaluated.

    After an update, average ← decay · average + (1 − decay) · weights; the first average is a copy of the weights.
    Checkpoints hold the average as ``state_dict`` and the weights beside it.

    Unlike Lightning's ``EMAWeightAveraging``, it needs no temporary tensors as large as the largest layers.

    Args:
        decay: Share of the old average in the new one, in [0, 1).
        every_n_steps: Number of optimiser steps between two updates of the average.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, decay: float = 0.999, every_n_steps: int = 1) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay = {decay} must be in [0, 1).")
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps = {every_n_steps} must be at least 1.")
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
        self.every_n_steps = every_n_steps

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return True if the average takes in the weights after optimiser step ``step_idx``, counted from 0."""
        return step_idx is not None and step_idx % self.every_n_steps == 0
