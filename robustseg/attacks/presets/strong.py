"""APGD over any loss, and the ensembles that count as strong evaluations."""

from __future__ import annotations

from collections.abc import Sequence

from robustseg.attacks.iterative import IterativeAttack, Stages
from robustseg.attacks.losses.base import AttackLoss
from robustseg.attacks.losses.margin import Margin
from robustseg.attacks.losses.masked import BalancedMaskedCrossEntropy, MaskedCrossEntropy
from robustseg.attacks.losses.pixelwise import CosPGDLoss, CrossEntropy, JensenShannon, SegPGDLoss, Tsallis
from robustseg.attacks.presets.ensemble import WorstOf
from robustseg.attacks.steps.adaptive import AdaptiveStep
from robustseg.attacks.threat import Norm, ThreatModel
from robustseg.types import IGNORE_INDEX

SHRINKING: Stages = ((0.3, 2.0), (0.3, 1.5), (0.4, 1.0))
"""(share of the steps, multiple of ε) of SEA."""


class APGD(IterativeAttack):
    """Auto-PGD (Croce & Hein, ICML 2020) over any loss; returns the iterate with the fewest correct pixels.

    Two iterates are kept per image: that of the largest cross-entropy steers the step size, whatever loss gives the
    gradient (as in SEA), and that of the fewest correct pixels is the result. ``shrinking`` runs 30 % of the steps at
    2ε, 30 % at 1.5ε and 40 % at ε, each stage from the projected result of the one before (Croce, Singh & Hein,
    "Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation Models", ECCV 2024). Only the first
    stage has a random start.

    Costs ``steps`` gradients and, for the last iterate of each stage, one forward; images without a correct pixel left
    leave early.

    Args:
        eps: Radius of the ball.
        steps: T, over all stages.
        loss: What gives the gradient; the cross-entropy by default.
        norm: ``linf``, ``l2`` or ``rms``.
        shrinking: Begin in larger balls.
        random_start: Start from noise in the (first) ball.
        restarts: Independent runs.
        targeted: ``targets`` are what the attacker wants to see.
        ignore_index: Label of pixels that take no part.
        seed: Seed of the noise where the call gives no generator.

    Raises:
        ValueError: As for :class:`IterativeAttack`; ``shrinking`` takes at least 4 steps.
    """

    def __init__(
        self,
        eps: float | str = "8/255",
        steps: int = 100,
        loss: AttackLoss | None = None,
        norm: Norm = "linf",
        shrinking: bool = False,
        random_start: bool = True,
        restarts: int = 1,
        targeted: bool = False,
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
    ):
        super().__init__(
            ThreatModel(eps, norm),
            loss or CrossEntropy(),
            AdaptiveStep(),
            steps,
            random_start,
            restarts,
            targeted,
            keep="best",
            stages=SHRINKING if shrinking else ((1.0, 1.0),),
            watched=None if loss is None else CrossEntropy(),
            ignore_index=ignore_index,
            seed=seed,
        )


class SEA(WorstOf):
    """The segmentation ensemble attack: APGD with shrinking ε on three losses, the worst of them per image
    (Croce, Singh & Hein, ECCV 2024).

    Each of balanced masked CE, masked CE and the Jensen–Shannon divergence gets ``steps`` steps. The protocol's second
    figure, the greedy worst case of a data set's miou, is not that of these images: it needs the members' predictions
    on all of them, which ``attacks`` gives one by one, and :func:`~robustseg.metrics.greedy_worst_case`.

    Args:
        class_pixels: Pixels of each class in the training set, for the balanced loss, see
            :class:`~robustseg.attacks.BalancedMaskedCrossEntropy`.
        eps: Radius of the ball.
        steps: Steps of each member; 300 in the paper.
        norm: ``linf`` in the paper.
        targeted: ``targets`` are what the attacker wants to see.
        ignore_index: Label of pixels that take no part.
        seed: Seed of the noise where the call gives no generator.
    """

    def __init__(
        self,
        class_pixels: Sequence[float] | None = None,
        eps: float | str = "8/255",
        steps: int = 300,
        norm: Norm = "linf",
        targeted: bool = False,
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
    ):
        losses = _sea_losses(class_pixels)
        super().__init__([_member(loss, eps, steps, norm, targeted, ignore_index) for loss in losses], seed)


class StrongEnsemble(WorstOf):
    """SEA and four more members of the same kind, on the losses that it lacks: SegPGD's, CosPGD's, Tsallis and margin.

    Arguments as for :class:`SEA`.
    """

    def __init__(
        self,
        class_pixels: Sequence[float] | None = None,
        eps: float | str = "8/255",
        steps: int = 300,
        norm: Norm = "linf",
        targeted: bool = False,
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
    ):
        losses = [*_sea_losses(class_pixels), SegPGDLoss(), CosPGDLoss(), Tsallis(), Margin()]
        super().__init__([_member(loss, eps, steps, norm, targeted, ignore_index) for loss in losses], seed)


def _sea_losses(class_pixels: Sequence[float] | None) -> list[AttackLoss]:
    counts = None if class_pixels is None else tuple(class_pixels)
    return [BalancedMaskedCrossEntropy(counts), MaskedCrossEntropy(), JensenShannon()]


def _member(loss: AttackLoss, eps: float | str, steps: int, norm: Norm, targeted: bool, ignore_index: int) -> APGD:
    return APGD(eps, steps, loss, norm, shrinking=True, targeted=targeted, ignore_index=ignore_index)
