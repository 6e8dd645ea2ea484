"""The named attacks, as compositions over the one gradient loop; constructors only.

Defaults are those of the SegPGD paper (Gu et al., ECCV 2022, Sec. 4.1): α = 0.01, ε = 8/255. The paper equates
0.03 and 8/255; the exact 8/255 is used here. ``eps`` and ``step_size`` are in units of the [0, 1] pixel range.
"""

from __future__ import annotations

from typing import ClassVar

from robustseg.attacks.iterative import IterativeAttack, Keep
from robustseg.attacks.losses.base import AttackLoss
from robustseg.attacks.losses.pixelwise import CosPGDLoss, CrossEntropy, Schedule, SegPGDLoss
from robustseg.attacks.steps.sign import MomentumStep, SignStep
from robustseg.attacks.threat import Norm, ThreatModel
from robustseg.attacks.transforms import DynamicScale
from robustseg.types import IGNORE_INDEX


class _SingleStep(IterativeAttack):
    """One step of size eps from the clean image along the class's loss."""

    _loss: ClassVar[AttackLoss]

    def __init__(
        self,
        eps: float | str = "8/255",
        norm: Norm = "linf",
        targeted: bool = False,
        ignore_index: int = IGNORE_INDEX,
    ):
        threat = ThreatModel(eps, norm)
        # At eps = 0 no step is taken, whatever its size; a step of zero would be refused.
        step = SignStep(str(threat.eps or 1))
        super().__init__(threat, self._loss, step, 1, random_start=False, targeted=targeted, ignore_index=ignore_index)


class FGSM(_SingleStep):
    """One sign step of size eps along the cross-entropy (Goodfellow et al., ICLR 2015)."""

    _loss = CrossEntropy()


class SegFGSM(_SingleStep):
    """SegPGD at t = 1 as a single step of size eps: only correct pixels count (Gu et al., ECCV 2022, Sec. 3.1).

    λ(1) = 0 by every dynamic schedule; the "λ = 1" in that section is a misprint.
    """

    _loss = SegPGDLoss()


class BIM(IterativeAttack):
    """Iterated sign steps on the cross-entropy from the clean image (Kurakin et al., 2017)."""

    def __init__(
        self,
        eps: float | str = "8/255",
        step_size: float | str = 0.01,
        steps: int = 10,
        norm: Norm = "linf",
        targeted: bool = False,
        keep: Keep = "last",
        ignore_index: int = IGNORE_INDEX,
    ):
        super().__init__(
            ThreatModel(eps, norm),
            CrossEntropy(),
            SignStep(step_size),
            steps,
            random_start=False,
            targeted=targeted,
            keep=keep,
            ignore_index=ignore_index,
        )


class _RandomStart(IterativeAttack):
    """Iterated steps along the class's loss from a random start."""

    _loss: ClassVar[AttackLoss]

    def __init__(
        self,
        eps: float | str = "8/255",
        step_size: float | str = 0.01,
        steps: int = 10,
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
            SignStep(step_size),
            steps,
            random_start,
            restarts,
            targeted,
            keep,
            ignore_index=ignore_index,
            seed=seed,
        )


class PGD(_RandomStart):
    """Iterated steps on the cross-entropy from a random start (Madry et al., ICLR 2018)."""

    _loss = CrossEntropy()


class CosPGD(_RandomStart):
    """PGD on the cross-entropy weighted by softmax–target cosine similarity (Agnihotri et al., ICML 2024)."""

    _loss = CosPGDLoss()


class SegPGD(IterativeAttack):
    """PGD that weights correct and wrong pixels by a schedule (Gu et al., ECCV 2022, Eqs. 4 and 5).

    The weight depends on t/T, so a run of fewer steps is not the beginning of a longer one.
    """

    def __init__(
        self,
        eps: float | str = "8/255",
        step_size: float | str = 0.01,
        steps: int = 10,
        schedule: Schedule = "linear",
        constant: float = 0.25,
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
            SegPGDLoss(schedule, constant),
            SignStep(step_size),
            steps,
            random_start,
            restarts,
            targeted,
            keep,
            ignore_index=ignore_index,
            seed=seed,
        )


class MIFGSM(IterativeAttack):
    """Momentum iterative FGSM from the clean image (Dong et al., CVPR 2018)."""

    def __init__(
        self,
        eps: float | str = "8/255",
        step_size: float | str = 0.01,
        steps: int = 10,
        decay: float = 1.0,
        norm: Norm = "linf",
        targeted: bool = False,
        keep: Keep = "last",
        ignore_index: int = IGNORE_INDEX,
    ):
        super().__init__(
            ThreatModel(eps, norm),
            CrossEntropy(),
            MomentumStep(step_size, decay),
            steps,
            random_start=False,
            targeted=targeted,
            keep=keep,
            ignore_index=ignore_index,
        )


class DS(IterativeAttack):
    """Dynamic scale: BIM on randomly resized images (Gu et al., 2021, Eq. 5), for examples that transfer.

    Defaults are the paper's: ε = 0.03, α = 0.01, λ = 0.5, 1000 steps; about 200 already work.
    """

    def __init__(
        self,
        eps: float | str = 0.03,
        step_size: float | str = 0.01,
        steps: int = 1000,
        scale_range: float = 0.5,
        norm: Norm = "linf",
        random_start: bool = False,
        targeted: bool = False,
        keep: Keep = "last",
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
    ):
        super().__init__(
            ThreatModel(eps, norm),
            CrossEntropy(),
            SignStep(step_size),
            steps,
            random_start=random_start,
            targeted=targeted,
            keep=keep,
            transform=DynamicScale(scale_range),
            ignore_index=ignore_index,
            seed=seed,
        )
