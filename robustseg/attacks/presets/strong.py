"""APGD on any loss, and the strong ensembles built from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robustseg.attacks.base import Attack
from robustseg.attacks.iterative import Stages
from robustseg.attacks.losses.base import AttackLoss, ClassPixels
from robustseg.attacks.losses.margin import Margin
from robustseg.attacks.losses.masked import BalancedMaskedCrossEntropy, MaskedCrossEntropy
from robustseg.attacks.losses.pixelwise import CosPGDLoss, CrossEntropy, JensenShannon, SegPGDLoss, Tsallis
from robustseg.attacks.presets.base import BallAttack
from robustseg.attacks.presets.ensemble import WorstOf
from robustseg.attacks.steps.adaptive import AdaptiveStep

SHRINKING: Stages = ((0.3, 2.0), (0.3, 1.5), (0.4, 1.0))
"""(share of the steps, multiple of ε) of SEA."""


class APGD(BallAttack):
    """Auto-PGD (Croce & Hein, ICML 2020) on any loss; the result is the iterate with the fewest correct pixels.

    Two iterates are kept per image: the one with the largest cross-entropy controls the step size for any loss (as in
    SEA), and the one with the fewest correct pixels is the result. ``shrinking`` runs 30 % of the steps at
    2ε, 30 % at 1.5ε and 40 % at ε, each stage from the projected result of the one before (Croce, Singh & Hein,
    "Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation Models", ECCV 2024). Only the first
    stage has a random start.

    Costs ``steps`` gradients and, for the last iterate of each stage, one forward; images without a correct pixel left
    leave early.

    Args:
        loss: Loss of the gradient; the cross-entropy by default.
        steps: T, over all stages.
        shrinking: Start in larger balls.
        **options: Arguments of :class:`~robustseg.attacks.presets.base.BallAttack`.

    Raises:
        ValueError: An error of :class:`IterativeAttack`, or ``shrinking`` with fewer than 4 steps.
    """

    def __init__(self, *, loss: AttackLoss | None = None, steps: int = 100, shrinking: bool = False, **options: Any):
        super().__init__(
            loss or CrossEntropy(),
            AdaptiveStep(),
            steps=steps,
            keep="best",
            stages=SHRINKING if shrinking else ((1.0, 1.0),),
            watched=None if loss is None else CrossEntropy(),
            **options,
        )


class _Shrinking(WorstOf):
    """The worst of APGD with shrinking ε on several losses; the first weights classes by their pixels."""

    def __init__(
        self,
        losses: Sequence[AttackLoss],
        class_pixels: Sequence[float] | None,
        *,
        steps: int = 300,
        seed: int = 0,
        **options: Any,
    ):
        self.class_pixels = None if class_pixels is None else tuple(class_pixels)
        every = [BalancedMaskedCrossEntropy(self.class_pixels), *losses]
        super().__init__([APGD(loss=loss, steps=steps, shrinking=True, **options) for loss in every], seed)

    def for_data(self, class_pixels: ClassPixels) -> Attack:
        return self if self.class_pixels is not None else self.replace(class_pixels=tuple(class_pixels()))


class SEA(_Shrinking):
    """The segmentation ensemble attack: APGD with shrinking ε on three losses, the worst of them per image
    (Croce, Singh & Hein, ECCV 2024).

    Each of balanced masked CE, masked CE and the Jensen–Shannon divergence gets ``steps`` steps. The protocol's second
    figure, the greedy worst case of a data set's miou, cannot be computed from these images: it needs the predictions
    of every member on all images and :func:`~robustseg.metrics.greedy_worst_case`. ``attacks`` holds the members.

    Args:
        class_pixels: Pixels of each class in the training set, for the balanced loss, see
            :class:`~robustseg.attacks.BalancedMaskedCrossEntropy`.
        steps: Steps of each member; 300 in the paper, under ``linf``.
        seed: Seed of the noise if the call gives no generator.
        **options: Settings of the members, as for :class:`APGD`.
    """

    def __init__(self, *, class_pixels: Sequence[float] | None = None, **options: Any):
        super().__init__(losses=[MaskedCrossEntropy(), JensenShannon()], class_pixels=class_pixels, **options)


class StrongEnsemble(_Shrinking):
    """SEA with four more members of the same kind, on the losses of SegPGD, CosPGD, Tsallis-PGD and the margin.

    Arguments as for :class:`SEA`.
    """

    def __init__(self, *, class_pixels: Sequence[float] | None = None, **options: Any):
        losses = [MaskedCrossEntropy(), JensenShannon(), SegPGDLoss(), CosPGDLoss(), Tsallis(), Margin()]
        super().__init__(losses=losses, class_pixels=class_pixels, **options)
