"""Step rule of projected Adam."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustseg.attacks.steps.base import StepState
from robustseg.attacks.steps.sign import SignStep
from robustseg.attacks.threat import AllowedSet


class AdamStep(SignStep):
    """Adam on the image (Kingma & Ba, ICLR 2015), as PAdam uses it (Halmosi, Mohos & Jelasity, ECCV 2024).

    m ← β₁·m + (1−β₁)·∇, v ← β₂·v + (1−β₂)·∇², and x + α·m̂/(√v̂ + c) with m̂ = m/(1−β₁^t) and v̂ = v/(1−β₂^t); with
    AMSGrad (Reddi et al., ICLR 2018), which PAdam uses, the largest v so far replaces v. The projection of the iterate
    does not change the moments. The first step has length α in each coordinate with a gradient.

    This is the rule for linf. PAdam is not defined for l2 and rms; there the step has the same direction and the
    length or rms α, as the steps of :class:`SignStep`.

    The losses here are sums over an image's pixels. PAdam's public code averages over pixels and batch, so that c has
    a larger weight, which depends on the batch; an average over N pixels with c equals a sum with N·c.

    Args:
        step_size: α in units of the [0, 1] pixel range (linf), or the length (l2) or rms of a step.
        beta1: Decay of the mean of the gradients, in [0, 1).
        beta2: Decay of the mean of their squares, in [0, 1).
        stabiliser: c > 0, in units of the gradient.
        amsgrad: Divide by the largest mean of squares so far.

    Raises:
        ValueError: ``step_size`` or ``stabiliser`` is not positive, or a decay is out of range.
    """

    def __init__(
        self,
        step_size: float | str = "2/255",
        beta1: float = 0.9,
        beta2: float = 0.999,
        stabiliser: float = 1e-8,
        amsgrad: bool = True,
    ):
        super().__init__(step_size)
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= beta < 1:
                raise ValueError(f"{name} = {beta} is outside of [0, 1): Adam uses 0.9 and 0.999.")
        if not 0 < stabiliser < math.inf:
            raise ValueError(f"stabiliser = {stabiliser} is not positive: Adam adds it to √v, 1e-8 is usual.")
        self.beta1 = beta1
        self.beta2 = beta2
        self.stabiliser = stabiliser
        self.amsgrad = amsgrad

    def init(self, images_adv: Tensor, allowed: AllowedSet, steps: int) -> StepState:  # noqa: D102
        # In float32 at least: the squares leave the range of float16.
        dtype = torch.promote_types(images_adv.dtype, torch.float32)
        zeros = torch.zeros_like(images_adv, dtype=dtype)
        return {"taken": 0, "mean": zeros, "square": zeros, "largest": zeros}

    def update(  # noqa: D102
        self, images_adv: Tensor, grad: Tensor, loss: Tensor, state: StepState, allowed: AllowedSet
    ) -> Tensor:
        grad = grad.to(state["mean"].dtype)
        state["taken"] += 1
        state["mean"] = self.beta1 * state["mean"] + (1 - self.beta1) * grad
        state["square"] = self.beta2 * state["square"] + (1 - self.beta2) * grad.square()
        state["largest"] = torch.maximum(state["largest"], state["square"]) if self.amsgrad else state["square"]
        scale = math.sqrt(1 - self.beta2 ** state["taken"])
        direction = state["mean"] / (state["largest"].sqrt() / scale + self.stabiliser)
        direction = direction / (1 - self.beta1 ** state["taken"])
        if allowed.threat.norm != "linf":
            direction = allowed.threat.direction(direction)
        return images_adv.add(direction.to(images_adv.dtype), alpha=float(self.step_size))

    def __repr__(self) -> str:
        return (
            f"AdamStep(step_size={str(self.step_size)!r}, beta1={self.beta1}, beta2={self.beta2}, "
            f"stabiliser={self.stabiliser}, amsgrad={self.amsgrad})"
        )
