"""Named attacks for adversarial examples that transfer, composed over the gradient loop; constructors only.

Each works on :class:`~robustseg.attacks.sources.SourceEnsemble` as on any model. Defaults of ε, α and the number of
steps are those of :mod:`robustseg.attacks.presets.gradient`.
"""

from __future__ import annotations

from typing import Any

from robustseg.attacks.losses.base import AttackLoss
from robustseg.attacks.losses.pixelwise import CrossEntropy
from robustseg.attacks.presets.base import BallAttack
from robustseg.attacks.steps.base import StepRule
from robustseg.attacks.steps.sign import MomentumStep
from robustseg.attacks.steps.transfer import Kernel, NesterovStep, TranslationInvariantStep
from robustseg.attacks.transforms import Chain, DynamicScale, InputDiversity, InputTransform


class TransferAttack(BallAttack):
    """Input diversity, dynamic scale, translation invariance and Nesterov momentum together, with any loss.

    With the defaults this is NI-TI-DIM of Lin et al. (ICLR 2020); each part can be switched off. Dynamic
    scale, if used, comes before input diversity, which pads to a fixed share of its input's size.

    Args:
        step_size: α.
        loss: Loss to increase; the cross-entropy by default.
        decay: μ of the momentum; 0 for none.
        nesterov: Take gradients at x + α·μ·g; see :class:`~robustseg.attacks.steps.transfer.NesterovStep`.
        diversity_prob: Probability of :class:`~robustseg.attacks.transforms.InputDiversity`; 0 for none.
        resize_rate: Range of sizes of the input diversity, see there.
        scale_range: λ of :class:`~robustseg.attacks.transforms.DynamicScale`; 0 for none.
        kernel: Kernel of :class:`~robustseg.attacks.steps.transfer.TranslationInvariantStep`.
        kernel_size: Side of the kernel in pixels; 1 for none.
        sigma: σ of the Gaussian kernel in pixels, by default (kernel_size − 1)/6.
        random_start: Start from noise in the allowed set.
        **options: Arguments of :class:`~robustseg.attacks.presets.base.BallAttack`.

    Raises:
        ValueError: A setting that one of the parts refuses.
    """

    def __init__(
        self,
        *,
        step_size: float | str = 0.01,
        loss: AttackLoss | None = None,
        decay: float = 1.0,
        nesterov: bool = True,
        diversity_prob: float = 0.5,
        resize_rate: float = 0.9,
        scale_range: float = 0.0,
        kernel: Kernel = "gaussian",
        kernel_size: int = 15,
        sigma: float | None = None,
        random_start: bool = False,
        **options: Any,
    ):
        rule: StepRule = NesterovStep(step_size, decay) if nesterov else MomentumStep(step_size, decay)
        smoothed = TranslationInvariantStep(rule, kernel, kernel_size, sigma)
        transforms: list[InputTransform] = []
        if scale_range != 0:
            transforms.append(DynamicScale(scale_range))
        diversity = InputDiversity(diversity_prob, resize_rate)
        if diversity_prob != 0:
            transforms.append(diversity)
        super().__init__(
            loss=loss or CrossEntropy(),
            step_rule=smoothed if kernel_size > 1 else rule,
            random_start=random_start,
            transform=Chain(transforms) if len(transforms) > 1 else next(iter(transforms), None),
            **options,
        )


class DIFGSM(TransferAttack):
    """DI²-FGSM: input diversity with a momentum of ``decay`` (Xie et al., CVPR 2019).

    It has no momentum by default, as DI²-FGSM of the paper and torchattacks; ``decay=1`` is the paper's M-DI²-FGSM,
    also called DIM. See :class:`~robustseg.attacks.transforms.InputDiversity` for the differences in segmentation.
    """

    def __init__(self, *, decay: float = 0.0, **options: Any):
        super().__init__(decay=decay, nesterov=False, kernel="gaussian", kernel_size=1, sigma=None, **options)


class TIFGSM(TransferAttack):
    """TI-FGSM: the gradient smoothed over shifts, with a momentum of ``decay`` (Dong et al., CVPR 2019).

    It has no momentum by default; ``decay=1`` is TI-MI-FGSM of the paper. torchattacks adds input diversity, which is
    TI-DIM of the paper: set ``diversity_prob`` for it.
    """

    def __init__(self, *, decay: float = 0.0, diversity_prob: float = 0.0, **options: Any):
        super().__init__(decay=decay, nesterov=False, diversity_prob=diversity_prob, **options)


class NIFGSM(BallAttack):
    """NI-FGSM: Nesterov momentum from the clean image (Lin et al., ICLR 2020).

    ``step_size`` and ``decay`` are those of :class:`~robustseg.attacks.NesterovStep`.
    """

    def __init__(self, *, step_size: float | str = 0.01, decay: float = 1.0, **options: Any):
        super().__init__(loss=CrossEntropy(), step_rule=NesterovStep(step_size, decay), random_start=False, **options)
