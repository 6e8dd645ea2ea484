"""Named attacks for adversarial examples that transfer, as compositions over the one gradient loop; constructors only.

Each works on :class:`~robustseg.attacks.sources.SourceEnsemble` as on any model. Defaults of ε, α and the number of
steps are those of :mod:`robustseg.attacks.presets.gradient`; ``eps`` and ``step_size`` are in units of the [0, 1]
pixel range.
"""

from __future__ import annotations

from robustseg.attacks.iterative import IterativeAttack, Keep
from robustseg.attacks.losses.base import AttackLoss
from robustseg.attacks.losses.pixelwise import CrossEntropy
from robustseg.attacks.steps.base import StepRule
from robustseg.attacks.steps.sign import MomentumStep
from robustseg.attacks.steps.transfer import Kernel, NesterovStep, TranslationInvariantStep
from robustseg.attacks.threat import Norm, ThreatModel
from robustseg.attacks.transforms import Chain, DynamicScale, InputDiversity, InputTransform
from robustseg.types import IGNORE_INDEX


class TransferAttack(IterativeAttack):
    """Input diversity, dynamic scale, translation invariance and Nesterov momentum together, with any loss.

    With the defaults this is NI-TI-DIM of Lin et al. (ICLR 2020); each part can be switched off. Dynamic
    scale, where used, comes before input diversity, which pads to a fixed share of the size that it finds.

    Args:
        eps: ε.
        step_size: α.
        steps: T ≥ 1.
        loss: What is increased; the cross-entropy by default.
        decay: μ of the momentum; 0 for none.
        nesterov: Take gradients at x + α·μ·g; see :class:`~robustseg.attacks.steps.transfer.NesterovStep`.
        diversity_prob: Probability of :class:`~robustseg.attacks.transforms.InputDiversity`; 0 for none.
        resize_rate: Its range of sizes.
        scale_range: λ of :class:`~robustseg.attacks.transforms.DynamicScale`; 0 for none.
        kernel: Kernel of :class:`~robustseg.attacks.steps.transfer.TranslationInvariantStep`.
        kernel_size: Its side in pixels; 1 for none.
        sigma: σ of its Gaussian, by default (kernel_size − 1)/6.
        norm: ``"linf"``, ``"l2"`` or ``"rms"``.
        random_start: Start from noise in the allowed set.
        restarts: Independent runs.
        targeted: ``targets`` are what the attacker wants to see.
        keep: ``"last"`` or ``"best"`` iterate on the source model.
        ignore_index: Label of pixels that take no part.
        seed: Seed of the noise where the call gives no generator.

    Raises:
        ValueError: As the parts.
    """

    def __init__(
        self,
        eps: float | str = "8/255",
        step_size: float | str = 0.01,
        steps: int = 10,
        loss: AttackLoss | None = None,
        decay: float = 1.0,
        nesterov: bool = True,
        diversity_prob: float = 0.5,
        resize_rate: float = 0.9,
        scale_range: float = 0.0,
        kernel: Kernel = "gaussian",
        kernel_size: int = 15,
        sigma: float | None = None,
        norm: Norm = "linf",
        random_start: bool = False,
        restarts: int = 1,
        targeted: bool = False,
        keep: Keep = "last",
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
    ):
        rule: StepRule = NesterovStep(step_size, decay) if nesterov else MomentumStep(step_size, decay)
        smoothed = TranslationInvariantStep(rule, kernel, kernel_size, sigma)
        transforms: list[InputTransform] = []
        if scale_range != 0:
            transforms.append(DynamicScale(scale_range))
        if diversity_prob != 0:
            transforms.append(InputDiversity(diversity_prob, resize_rate))
        super().__init__(
            ThreatModel(eps, norm),
            loss or CrossEntropy(),
            smoothed if kernel_size > 1 else rule,
            steps,
            random_start,
            restarts,
            targeted,
            keep,
            Chain(transforms) if len(transforms) > 1 else next(iter(transforms), None),
            ignore_index=ignore_index,
            seed=seed,
        )


class DIFGSM(TransferAttack):
    """DI²-FGSM: input diversity with a momentum of ``decay`` (Xie et al., CVPR 2019).

    Without momentum by default, as DI²-FGSM of the paper and in torchattacks; ``decay=1`` is its M-DI²-FGSM, also
    called DIM. See :class:`~robustseg.attacks.transforms.InputDiversity` for what is different in segmentation.
    """

    def __init__(
        self,
        eps: float | str = "8/255",
        step_size: float | str = 0.01,
        steps: int = 10,
        decay: float = 0.0,
        diversity_prob: float = 0.5,
        resize_rate: float = 0.9,
        norm: Norm = "linf",
        random_start: bool = False,
        targeted: bool = False,
        keep: Keep = "last",
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
    ):
        super().__init__(
            eps,
            step_size,
            steps,
            decay=decay,
            nesterov=False,
            diversity_prob=diversity_prob,
            resize_rate=resize_rate,
            kernel_size=1,
            norm=norm,
            random_start=random_start,
            targeted=targeted,
            keep=keep,
            ignore_index=ignore_index,
            seed=seed,
        )


class TIFGSM(TransferAttack):
    """TI-FGSM: the gradient smoothed over shifts, with a momentum of ``decay`` (Dong et al., CVPR 2019).

    Without momentum by default; ``decay=1`` is TI-MI-FGSM of the paper. torchattacks adds input diversity here, which
    is TI-DIM of the paper: set ``diversity_prob`` for it.
    """

    def __init__(
        self,
        eps: float | str = "8/255",
        step_size: float | str = 0.01,
        steps: int = 10,
        decay: float = 0.0,
        kernel: Kernel = "gaussian",
        kernel_size: int = 15,
        sigma: float | None = None,
        diversity_prob: float = 0.0,
        resize_rate: float = 0.9,
        norm: Norm = "linf",
        random_start: bool = False,
        targeted: bool = False,
        keep: Keep = "last",
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
    ):
        super().__init__(
            eps,
            step_size,
            steps,
            decay=decay,
            nesterov=False,
            diversity_prob=diversity_prob,
            resize_rate=resize_rate,
            kernel=kernel,
            kernel_size=kernel_size,
            sigma=sigma,
            norm=norm,
            random_start=random_start,
            targeted=targeted,
            keep=keep,
            ignore_index=ignore_index,
            seed=seed,
        )


class NIFGSM(TransferAttack):
    """NI-FGSM: Nesterov momentum from the clean image (Lin et al., ICLR 2020)."""

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
            eps,
            step_size,
            steps,
            decay=decay,
            diversity_prob=0,
            kernel_size=1,
            norm=norm,
            targeted=targeted,
            keep=keep,
            ignore_index=ignore_index,
        )
