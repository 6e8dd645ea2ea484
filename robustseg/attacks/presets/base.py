"""The gradient loop in a ball of radius ε: what every named attack along gradients is made from.

A named attack says its loss or its step rule, and the settings whose defaults differ; all others are passed on.
``eps`` and ``step_size`` are in units of the [0, 1] pixel range.
"""

from __future__ import annotations

from typing import Any

from robustseg.attacks.iterative import IterativeAttack
from robustseg.attacks.losses.base import AttackLoss
from robustseg.attacks.steps.base import StepRule
from robustseg.attacks.steps.sign import SignStep
from robustseg.attacks.threat import Norm, ThreatModel


class BallAttack(IterativeAttack):
    """The gradient loop within a ball around the image.

    Args:
        loss: What is increased, or decreased if targeted.
        step_rule: How the iterate moves.
        eps: Radius of the ball, in units of the [0, 1] pixel range.
        norm: ``"linf"``, ``"l2"`` or ``"rms"``.
        steps: T ≥ 1.
        **options: As for :class:`~robustseg.attacks.IterativeAttack`.

    Raises:
        ValueError: A wrong ``eps`` or ``norm``, or as for :class:`~robustseg.attacks.IterativeAttack`.
    """

    def __init__(
        self,
        loss: AttackLoss,
        step_rule: StepRule,
        *,
        eps: float | str = "8/255",
        norm: Norm = "linf",
        steps: int = 10,
        **options: Any,
    ):
        super().__init__(ThreatModel(eps, norm), loss, step_rule, steps, **options)


class SignAttack(BallAttack):
    """Steps of one size along the sign of the gradient, or along the gradient itself under l2 and rms.

    Args:
        loss: What is increased, or decreased if targeted.
        step_size: α, as for :class:`~robustseg.attacks.SignStep`.
        **options: As for :class:`BallAttack`.
    """

    def __init__(self, loss: AttackLoss, *, step_size: float | str = 0.01, **options: Any):
        super().__init__(loss, SignStep(step_size), **options)
