"""Named attacks along the gradient of a loss; constructors only.

Defaults are those of the SegPGD paper (Gu et al., ECCV 2022, Sec. 4.1): α = 0.01, ε = 8/255. The paper equates
0.03 and 8/255; the exact 8/255 is used here.
"""

from __future__ import annotations

from typing import Any

from robustseg.attacks.losses.base import AttackLoss
from robustseg.attacks.losses.pixelwise import CosPGDLoss, CrossEntropy, Schedule, SegPGDLoss
from robustseg.attacks.presets.base import BallAttack, SignAttack
from robustseg.attacks.steps.sign import MomentumStep, SignStep
from robustseg.attacks.threat import Norm, ThreatModel
from robustseg.attacks.transforms import DynamicScale


class _SingleStep(BallAttack):
    """One step of size eps from the clean image."""

    def __init__(self, loss: AttackLoss, *, eps: float | str = "8/255", norm: Norm = "linf", **options: Any):
        # At eps = 0 the projection cancels a step of any size; a step of zero would be refused.
        step = SignStep(str(ThreatModel(eps, norm).eps or 1))
        super().__init__(loss=loss, step_rule=step, eps=eps, norm=norm, steps=1, random_start=False, **options)


class FGSM(_SingleStep):
    """One sign step of size eps along the cross-entropy (Goodfellow et al., ICLR 2015)."""

    def __init__(self, **options: Any):
        super().__init__(loss=CrossEntropy(), **options)


class SegFGSM(_SingleStep):
    """SegPGD at t = 1 as a single step of size eps: only correct pixels count (Gu et al., ECCV 2022, Sec. 3.1).

    λ(1) = 0 in every dynamic schedule; the "λ = 1" in that section is a misprint.
    """

    def __init__(self, **options: Any):
        super().__init__(loss=SegPGDLoss(), **options)


class BIM(SignAttack):
    """Iterated sign steps on the cross-entropy from the clean image (Kurakin et al., 2017)."""

    def __init__(self, **options: Any):
        super().__init__(loss=CrossEntropy(), random_start=False, **options)


class PGD(SignAttack):
    """Iterated steps on the cross-entropy from a random start (Madry et al., ICLR 2018)."""

    def __init__(self, **options: Any):
        super().__init__(loss=CrossEntropy(), **options)


class CosPGD(SignAttack):
    """PGD on the cross-entropy weighted by softmax–target cosine similarity (Agnihotri et al., ICML 2024)."""

    def __init__(self, **options: Any):
        super().__init__(loss=CosPGDLoss(), **options)


class SegPGD(SignAttack):
    """PGD that weights correct and wrong pixels by a schedule (Gu et al., ECCV 2022, Eqs. 4 and 5).

    The weight depends on t/T, so a run of fewer steps is not the beginning of a longer one. ``schedule`` and
    ``constant`` are those of :class:`~robustseg.attacks.SegPGDLoss`.
    """

    def __init__(self, *, schedule: Schedule = "linear", constant: float = 0.25, **options: Any):
        super().__init__(loss=SegPGDLoss(schedule, constant), **options)


class MIFGSM(BallAttack):
    """Momentum iterative FGSM from the clean image (Dong et al., CVPR 2018).

    ``step_size`` and ``decay`` are those of :class:`~robustseg.attacks.MomentumStep`.
    """

    def __init__(self, *, step_size: float | str = 0.01, decay: float = 1.0, **options: Any):
        super().__init__(loss=CrossEntropy(), step_rule=MomentumStep(step_size, decay), random_start=False, **options)


class DS(SignAttack):
    """Dynamic scale: BIM on randomly resized images (Gu et al., 2021, Eq. 5), for examples that transfer.

    Defaults are the paper's: ε = 0.03, α = 0.01, λ = 0.5, 1000 steps; about 200 already work. ``scale_range`` is λ.
    """

    def __init__(
        self,
        *,
        eps: float | str = 0.03,
        steps: int = 1000,
        scale_range: float = 0.5,
        random_start: bool = False,
        **options: Any,
    ):
        transform = DynamicScale(scale_range)
        super().__init__(
            loss=CrossEntropy(), eps=eps, steps=steps, random_start=random_start, transform=transform, **options
        )
