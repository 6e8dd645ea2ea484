"""Step rules for adversarial examples that transfer to other models."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustseg.attacks.steps.base import StepRule, StepState
from robustseg.attacks.steps.sign import MomentumStep
from robustseg.attacks.threat import AllowedSet, per_image

Kernel = Literal["gaussian", "linear", "uniform"]


class NesterovStep(MomentumStep):
    """The step of MI-FGSM with the gradient at x + α·μ·g (NI-FGSM, Lin et al., ICLR 2020).

    The paper divides gradients by their L1 norm; the look-ahead would then be at most α·μ/(3·H·W) long in the mean
    over pixels. The authors' code, and that of others, divides by the mean of the absolute values. The look-ahead here
    uses that g; the direction of the step is the same for both. The mean is taken over the entries that have had a
    gradient, for a classifier all of them: so a frame of ignored pixels that do not affect the logits does not
    lengthen the look-ahead.

    The paper has linf only. For l2 and rms our choice is to scale g by the square root of the number of those entries,
    so that a look-ahead along one dense gradient has the size of a step, about α·μ, as for linf.

    The look-ahead may lie outside of the ball and of [0, 1], as in the paper; the iterates do not.

    Args:
        step_size: α, as for :class:`~robustseg.attacks.steps.sign.SignStep`.
        decay: μ ≥ 0; 1 in the paper.

    Raises:
        ValueError: ``step_size`` is not positive, or ``decay`` is negative.
    """

    def look_ahead(self, images_adv: Tensor, state: StepState, allowed: AllowedSet) -> Tensor:  # noqa: D102
        if self.decay == 0:
            return images_adv
        momentum: Tensor = state["momentum"]
        reached = (momentum != 0).flatten(1).sum(1).to(momentum.dtype)
        scale = reached if allowed.threat.norm == "linf" else reached.sqrt() * allowed.threat.length(images_adv)
        ahead = momentum * per_image(float(self.step_size) * self.decay * scale, momentum)
        return (images_adv + ahead).to(images_adv.dtype)


class TranslationInvariantStep(StepRule):
    """A step rule that smooths the gradient of each channel for ``inner`` (TI-FGSM, Dong et al., CVPR 2019).

    Convolution with the kernel W approximates the mean gradient over shifted images. With r = (size − 1)/2 and i, j =
    −r..r, W is proportional to

    - gaussian: exp(−(i² + j²)/2σ²), by default with σ = r/3: the kernel ends at 3σ, as in the authors' code;
    - linear: (1 − |i|/(r+1))·(1 − |j|/(r+1));
    - uniform: 1;

    and its sum is 1. Beyond the image the gradient is zero, so that pixels near its border get less. A gradient
    also spreads to ignored pixels nearby. The kernels are products of two one-dimensional ones, which are applied in
    turn, in float32 at least.

    Args:
        inner: The rule that moves the iterate and chooses the points of the gradients.
        kernel: ``"gaussian"``, ``"linear"`` or ``"uniform"``.
        size: Side of the kernel in pixels, odd; 15 in the paper, 1 smooths nothing.
        sigma: σ of the Gaussian in pixels, by default (size − 1)/6.

    Raises:
        ValueError: Unknown ``kernel``, ``size`` that is not odd and positive, ``sigma`` that is not positive or given
            for another kernel.
    """

    def __init__(self, inner: StepRule, kernel: Kernel = "gaussian", size: int = 15, sigma: float | None = None):
        if kernel not in ("gaussian", "linear", "uniform"):
            raise ValueError(f"kernel = {kernel!r}: use gaussian, linear or uniform.")
        if size < 1 or size % 2 == 0:
            raise ValueError(f"kernel size = {size}: it is odd and positive, 15 in the paper.")
        if sigma is not None and (kernel != "gaussian" or not 0 < sigma < math.inf):
            raise ValueError(f"sigma = {sigma} with the {kernel} kernel: it is a positive width of the gaussian one.")
        self.inner = inner
        self.kernel: Kernel = kernel
        self.size = size
        self.sigma = sigma
        self._weights = _weights(kernel, size, sigma)

    def init(self, images_adv: Tensor, allowed: AllowedSet, steps: int) -> StepState:  # noqa: D102
        return self.inner.init(images_adv, allowed, steps)

    def look_ahead(self, images_adv: Tensor, state: StepState, allowed: AllowedSet) -> Tensor:  # noqa: D102
        return self.inner.look_ahead(images_adv, state, allowed)

    def update(  # noqa: D102
        self, images_adv: Tensor, grad: Tensor, loss: Tensor, state: StepState, allowed: AllowedSet
    ) -> Tensor:
        return self.inner.update(images_adv, self.smooth(grad), loss, state, allowed)

    def smooth(self, grad: Tensor) -> Tensor:
        """Convolve ``grad`` (B×3×H×W) with the kernel, in float32 at least."""
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
        radius = self.size // 2
        # Sums of shifted images: exact float32 on every device, and the same for each image in any batch. A device's
        # convolution guarantees neither.
        for padding, dim in (((0, 0, radius, radius), 2), ((radius, radius, 0, 0), 3)):
            padded, length = F.pad(wide, padding), wide.shape[dim]
            wide = padded.narrow(dim, 0, length) * self._weights[0]
            for shift, weight in enumerate(self._weights[1:], start=1):
                wide.add_(padded.narrow(dim, shift, length), alpha=weight)
        return wide

    def __repr__(self) -> str:
        width = "" if self.sigma is None else f", sigma={self.sigma}"
        return f"TranslationInvariantStep({self.inner!r}, kernel={self.kernel!r}, size={self.size}{width})"


def _weights(kernel: Kernel, size: int, sigma: float | None) -> list[float]:
    """Compute the one-dimensional factor of the kernel, with sum 1."""
    radius = size // 2
    width = sigma or max(radius / 3, 1e-3)
    shape = {
        "gaussian": [math.exp(-((i / width) ** 2) / 2) for i in range(-radius, radius + 1)],
        "linear": [1 - abs(i) / (radius + 1) for i in range(-radius, radius + 1)],
        "uniform": [1.0] * size,
    }[kernel]
    return [value / math.fsum(shape) for value in shape]
