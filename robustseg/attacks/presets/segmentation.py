"""The named attacks whose loss was made for segmentation or for structured outputs; constructors only.

``eps`` and ``step_size`` are in units of the [0, 1] pixel range.
"""

from __future__ import annotations

from typing import ClassVar

from robustseg.attacks.iterative import IterativeAttack, Keep
from robustseg.attacks.losses.base import AttackLoss
from robustseg.attacks.losses.margin import HoudiniLoss, Rival, TaskLoss
from robustseg.attacks.losses.masked import LogitCosine
from robustseg.attacks.losses.pixelwise import CrossEntropy, Tsallis
from robustseg.attacks.steps.adam import AdamStep
from robustseg.attacks.steps.sign import SignStep
from robustseg.attacks.threat import Norm, ThreatModel
from robustseg.types import IGNORE_INDEX


class TsallisPGD(IterativeAttack):
    """PGD on the Tsallis cross-entropy with q swept over the run (arXiv:2605.03405).

    q begins at ``q_start`` and ends (q_end − q_start)/T short of ``q_end``, see :class:`~robustseg.attacks.Tsallis`; a
    run of fewer steps is not the beginning of a longer one. The step sizes are those of the other presets.
    """

    def __init__(
        self,
        eps: float | str = "8/255",
        step_size: float | str = 0.01,
        steps: int = 10,
        q_start: float = -2.0,
        q_end: float = 1.0,
        norm: Norm = "linf",
        random_start: bool = True,
        restarts: int = 1,
        targeted: bool = False,
        keep: Keep = "last",
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
    ):
        super().__init__(
            ThreatModel(eps, norm),
            Tsallis(q_start, q_end),
            SignStep(step_size),
            steps,
            random_start,
            restarts,
            targeted,
            keep,
            ignore_index=ignore_index,
            seed=seed,
        )


class Houdini(IterativeAttack):
    """Steps along Houdini's surrogate of the task loss (Cisse, Adi, Neverova & Keshet, NeurIPS 2017).

    Made for targeted attacks (``targeted=True``, with a target map). ``rival`` and ``task_loss`` are those of
    :class:`~robustseg.attacks.HoudiniLoss`, which says what an untargeted attack increases. The paper does not fix
    start, step rule and number of steps; these are ours: the clean image, and the steps of PGD.
    """

    def __init__(
        self,
        eps: float | str = "8/255",
        step_size: float | str = 0.01,
        steps: int = 10,
        rival: Rival = "auto",
        task_loss: TaskLoss = "error",
        norm: Norm = "linf",
        random_start: bool = False,
        targeted: bool = False,
        keep: Keep = "last",
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
    ):
        super().__init__(
            ThreatModel(eps, norm),
            HoudiniLoss(rival, task_loss),
            SignStep(step_size),
            steps,
            random_start,
            targeted=targeted,
            keep=keep,
            ignore_index=ignore_index,
            seed=seed,
        )


class _PAdam(IterativeAttack):
    """Projected Adam from a random start along the class's loss."""

    _loss: ClassVar[AttackLoss]

    def __init__(
        self,
        eps: float | str = "8/255",
        step_size: float | str = "2/255",
        steps: int = 200,
        norm: Norm = "linf",
        random_start: bool = True,
        restarts: int = 1,
        targeted: bool = False,
        keep: Keep = "last",
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
    ):
        super().__init__(
            ThreatModel(eps, norm),
            self._loss,
            AdamStep(step_size),
            steps,
            random_start,
            restarts,
            targeted,
            keep,
            ignore_index=ignore_index,
            seed=seed,
        )


class PAdamCE(_PAdam):
    """Projected Adam on the cross-entropy (Halmosi, Mohos & Jelasity, ECCV 2024).

    Theirs, from the public code of the paper: linf, U(−ε, ε) clipped to [0, 1] as the start, Adam with AMSGrad and
    PyTorch's other defaults at a constant α = 2/255, projection after each step, 200 steps, the last iterate. Ours:
    l2, targets, ignored pixels, restarts, ``keep="best"``, and a sum over the pixels of each image instead of a mean
    over the batch, see :class:`~robustseg.attacks.AdamStep`.
    """

    _loss = CrossEntropy()


class PAdamCos(_PAdam):
    """As :class:`PAdamCE`, on the cosine between logits and target (:class:`~robustseg.attacks.LogitCosine`)."""

    _loss = LogitCosine()
