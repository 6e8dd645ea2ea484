"""Learning rate schedules per optimiser step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

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
