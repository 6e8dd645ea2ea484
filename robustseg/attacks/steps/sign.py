"""Steps along the sign of the gradient, with or without momentum."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from robustseg.attacks.steps.base import StepRule, StepState
from robustseg.attacks.threat import AllowedSet, per_image
from robustseg.types import parse_fraction


class SignStep(StepRule):
    """The step x + α·sign(∇) for linf, x + α·∇/‖∇‖ per image for l2 and rms (Madry et al., ICLR 2018).

    Args:
        step_size: α in units of the [0, 1] pixel range (linf), or the length (l2) or rms of a step.

    Raises:
        ValueError: ``step_size`` is not a positive number.
    """

    def __init__(self, step_size: float | str = 0.01):
        self.step_size: Fraction = parse_fraction(step_size, "step_size")
        if self.step_size <= 0:
            raise ValueError(f"step_size = {step_size} moves nothing: it must be positive, 0.01 or 2/255 for example.")

    def update(  # noqa: D102
        self, images_adv: Tensor, grad: Tensor, loss: Tensor, state: StepState, allowed: AllowedSet
    ) -> Tensor:
        return images_adv.add(allowed.threat.direction(grad).to(images_adv.dtype), alpha=float(self.step_size))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(step_size={str(self.step_size)!r})"


class MomentumStep(SignStep):
    """The update g ← μ·g + ∇/‖∇‖₁ per image, then a step along g (MI-FGSM, Dong et al., CVPR 2018, Eqs. 6 and 7).

    Args:
        step_size: α, as for :class:`SignStep`.
        decay: μ ≥ 0.

    Raises:
        ValueError: ``step_size`` is not positive, or ``decay`` is negative.
    """

    def __init__(self, step_size: float | str = 0.01, decay: float = 1.0):
        super().__init__(step_size)
        if not decay >= 0:
            raise ValueError(f"decay = {decay} is negative: the momentum of MI-FGSM is 0 or more, 1 in the paper.")
        self.decay = decay

    def init(self, images_adv: Tensor, allowed: AllowedSet, steps: int) -> StepState:  # noqa: D102
        # In float32 at least: the L1 norm of a gradient overflows float16, and its quotients underflow.
        dtype = torch.promote_types(images_adv.dtype, torch.float32)
        return {"momentum": torch.zeros_like(images_adv, dtype=dtype)}

    def update(  # noqa: D102
        self, images_adv: Tensor, grad: Tensor, loss: Tensor, state: StepState, allowed: AllowedSet
    ) -> Tensor:
        grad = grad.to(state["momentum"].dtype)
        length = per_image(grad.abs().flatten(1).sum(1), grad).clamp_min(torch.finfo(grad.dtype).tiny)
        state["momentum"] = state["momentum"] * self.decay + grad / length
        return super().update(images_adv, state["momentum"], loss, state, allowed)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(step_size={str(self.step_size)!r}, decay={self.decay})"
