"""The gradient loop in a ball of radius ε, base of the named gradient attacks.

A named attack sets its loss or its step rule and the defaults that differ; all other settings are passed on.
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

    Arguments of ``super().__init__`` go by name: jsonargparse finds those of a subclass without a constructor that way.

    Args:
        loss: Loss to increase, or to decrease if targeted.
        step_rule: Rule that moves the iterate.
        eps: Radius of the ball, in units of the [0, 1] pixel range.
        norm: ``"linf"``, ``"l2"`` or ``"rms"``.
        steps: T ≥ 1.
        **options: Arguments of :class:`~robustseg.attacks.IterativeAttack`.

    Raises:
        ValueError: A wrong ``eps`` or ``norm``, or an error of :class:`~robustseg.attacks.IterativeAttack`.
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
        super().__init__(threat=ThreatModel(eps, norm), loss=loss, step_rule=step_rule, steps=steps, **options)


class SignAttack(BallAttack):
    """The gradient loop with steps of constant size along the gradient's sign, or along the gradient for l2 and rms.

    Args:
        loss: Loss to increase, or to decrease if targeted.
        step_size: α, as for :class:`~robustseg.attacks.SignStep`.
        **options: Arguments of :class:`BallAttack`.
    """

    def __init__(self, loss: AttackLoss, *, step_size: float | str = 0.01, **options: Any):
        super().__init__(loss=loss, step_rule=SignStep(step_size), **options)
