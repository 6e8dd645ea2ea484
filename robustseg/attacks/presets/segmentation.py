"""Named attacks with losses made for segmentation or structured outputs; constructors only."""

from __future__ import annotations

from typing import Any

from robustseg.attacks.losses.base import AttackLoss
from robustseg.attacks.losses.margin import HoudiniLoss, Rival, TaskLoss
from robustseg.attacks.losses.masked import LogitCosine
from robustseg.attacks.losses.pixelwise import CrossEntropy, Tsallis
from robustseg.attacks.presets.base import BallAttack, SignAttack
from robustseg.attacks.steps.adam import AdamStep


class TsallisPGD(SignAttack):
    """PGD on the Tsallis cross-entropy with q swept over the run (arXiv:2605.03405).

    q begins at ``q_start`` and ends (q_end − q_start)/T short of ``q_end``, see :class:`~robustseg.attacks.Tsallis`; a
    run of fewer steps is not the beginning of a longer one. The step sizes are those of the other presets.
    """

    def __init__(self, *, q_start: float = -2.0, q_end: float = 1.0, **options: Any):
        super().__init__(loss=Tsallis(q_start, q_end), **options)


class Houdini(SignAttack):
    """Steps along Houdini's surrogate of the task loss (Cisse, Adi, Neverova & Keshet, NeurIPS 2017).

    It was made for targeted attacks (``targeted=True``, with a target map). ``rival`` and ``task_loss`` are those of
    :class:`~robustseg.attacks.HoudiniLoss`; see there for the objective of an untargeted attack. The paper does not
    fix start, step rule and number of steps; these are ours: the clean image, and the steps of PGD.
    """

    def __init__(
        self, *, rival: Rival = "auto", task_loss: TaskLoss = "error", random_start: bool = False, **options: Any
    ):
        super().__init__(loss=HoudiniLoss(rival, task_loss), random_start=random_start, **options)


class _PAdam(BallAttack):
    """Projected Adam from a random start."""

    def __init__(self, loss: AttackLoss, *, step_size: float | str = "2/255", steps: int = 200, **options: Any):
        super().__init__(loss=loss, step_rule=AdamStep(step_size), steps=steps, **options)


class PAdamCE(_PAdam):
    """Projected Adam on the cross-entropy (Halmosi, Mohos & Jelasity, ECCV 2024).

    The public code of the paper has linf, U(−ε, ε) clipped to [0, 1] as the start, Adam with AMSGrad and PyTorch's
    other defaults at a constant α = 2/255, projection after each step, 200 steps and the last iterate. Our additions
    are l2, targets, ignored pixels, restarts, ``keep="best"``, and a sum over the pixels of each image instead of a
    mean over the batch, see :class:`~robustseg.attacks.AdamStep`.
    """

    def __init__(self, **options: Any):
        super().__init__(loss=CrossEntropy(), **options)


class PAdamCos(_PAdam):
    """Projected Adam on the cosine between logits and target (:class:`~robustseg.attacks.LogitCosine`).

    All else is as in :class:`PAdamCE` (Halmosi, Mohos & Jelasity, ECCV 2024).
    """

    def __init__(self, **options: Any):
        super().__init__(loss=LogitCosine(), **options)
