"""PDGD and PDPGD: minimum-norm attacks as a game between the perturbation and the weights of the constraints."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.minimum_norm.constraints import margins
from robustseg.attacks.minimum_norm.descent import DescentAttack, Search
from robustseg.attacks.minimum_norm.proximal import prox_l2, prox_linf
from robustseg.attacks.threat import Norm, per_image

_ADAM = (0.9, 0.999, 1e-8)
"""β₁, β₂ and the term that keeps the denominator positive."""


class PDGD(DescentAttack):
    """Primal-dual gradient descent (Matyasko & Chau, 2021, "PDPGD: Primal-Dual Proximal Gradient Descent Adversarial
    Attack") in its form for segmentation: it minimises ‖δ‖₂ subject to one constraint per valid pixel.

    A constraint m is the pixel's margin, negative once it is fooled. The weights (λ₀, λ₁, …) of the norm and of the
    constraints are positive and sum to one: the softmax of (0, ℓ₁, …), averaged over the steps. Each step

    1. adds to the average: ``dual_average``·λ + (1 − ``dual_average``)·softmax(0, ℓ₁, …);
    2. moves δ by Adam along the gradient of λ₀·‖δ‖₂ + Σ λᵢ·softplus(mᵢ), and clips it to the box;
    3. adds ``dual_step``·sign(mᵢ) to ℓᵢ, within ± log ``dual_floor``.

    ``step_size`` falls exponentially to ``step_decay`` times itself at the end, ``dual_step`` linearly to
    ``dual_decay`` times itself. At first the constraints of an image weigh 1/``dual_ratio`` times its norm in all.

    Defaults are those of the ALMA-prox authors' comparison on segmentation (jeromerony/alma_prox_segmentation, with a
    tenth of the step size of adv-lib 0.2.8), and those of adv-lib for the rest. One difference: public PDGD still
    updates ℓ of a dropped constraint, public PDPGD does not; here neither does, and by default no constraint is
    dropped.

    Args:
        step_decay: Last step size over the first, in (0, 1].
        dual_ratio: λ₀ over the sum of the λᵢ at the start, positive.
        dual_step: First step of ℓ, positive.
        dual_decay: Last ``dual_step`` over the first, in (0, 1].
        dual_average: Inertia of λ, in [0, 1).
        dual_floor: Lower bound of λᵢ/λ₀ and of λ₀/λᵢ, in (0, 1); 1e-6 for PDGD and 1e-12 for PDPGD.
        norm: ``"l2"``.
        **options: Arguments of :class:`~robustseg.attacks.minimum_norm.descent.DescentAttack`; ``step_size`` is
            Adam's first one.

    Raises:
        ValueError: A value outside of the range that is given here.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    def __init__(
        self,
        *,
        step_decay: float = 0.01,
        dual_ratio: float = 1.0,
        dual_step: float = 0.1,
        dual_decay: float = 0.1,
        dual_average: float = 0.9,
        dual_floor: float = 1e-6,
        norm: Norm = "l2",
        **options: Any,
    ):
        super().__init__(norm=norm, **options)
        self.step_decay = step_decay
        self.dual_ratio = dual_ratio
        self.dual_step = dual_step
        self.dual_decay = dual_decay
        self.dual_average = dual_average
        self.dual_floor = dual_floor
        for name, right, wanted in (
            ("step_decay", 0 < step_decay <= 1, "in (0, 1], 0.01 by default"),
            ("dual_ratio", dual_ratio > 0, "positive, 1 by default"),
            ("dual_step", dual_step > 0, "positive, 0.1 by default"),
            ("dual_decay", 0 < dual_decay <= 1, "in (0, 1], 0.1 by default"),
            ("dual_average", 0 <= dual_average < 1, "in [0, 1), 0.9 by default"),
            ("dual_floor", 0 < dual_floor < 1, "in (0, 1), 1e-6 for example"),
        ):
            if not right:
                raise ValueError(f"{name} = {getattr(self, name)}: it must be {wanted}.")

    def begin(self, clean: Tensor, targets: Tensor) -> Search:  # noqa: D102
        return _Game(self, clean, targets)

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            **super().describe(),
            "step_decay": self.step_decay,
            "dual_ratio": self.dual_ratio,
            "dual_step": self.dual_step,
            "dual_decay": self.dual_decay,
            "dual_average": self.dual_average,
            "dual_floor": self.dual_floor,
        }


class PDPGD(PDGD):
    """Primal-dual proximal gradient descent (see :class:`PDGD`), for norms with an uninformative gradient.

    Adam follows Σ λᵢ·softplus(mᵢ) alone. The norm acts through its proximal operator in the metric of Adam, which is
    approached by ``proximal_steps`` inner iterations (Melchior et al., 2019, "Proximal Adam"): with v the
    denominator of Adam, h = v / max v, s the step size and w = s / max v · λ₀ / Σ λᵢ,
    z ← clip(prox_w(z − h·(z − δ))). An image's iterations end when z changes by no more than ``tolerance`` of its
    length. The operators are exact.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        proximal_steps: Inner iterations, 1 or more.
        tolerance: Relative change at which they end, 0 or more.
        dual_floor: See :class:`PDGD`.
        **options: Arguments of :class:`PDGD`.

    Raises:
        ValueError: A value outside of the range that is given here.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    def __init__(
        self,
        *,
        norm: Norm = "linf",
        proximal_steps: int = 5,
        tolerance: float = 0.01,
        dual_floor: float = 1e-12,
        **options: Any,
    ):
        super().__init__(norm=norm, dual_floor=dual_floor, **options)
        if proximal_steps < 1:
            raise ValueError(f"proximal_steps = {proximal_steps}: without any, nothing makes the norm small.")
        if not tolerance >= 0:
            raise ValueError(f"tolerance = {tolerance}: it must be 0 or more, 0.01 by default.")
        self.proximal_steps = proximal_steps
        self.tolerance = tolerance

    def begin(self, clean: Tensor, targets: Tensor) -> Search:  # noqa: D102
        return _ProximalGame(self, clean, targets)

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {**super().describe(), "proximal_steps": self.proximal_steps, "tolerance": self.tolerance}


class _Game(Search):
    """State of PDGD on one batch: δ moved by Adam, and the weights of the norm and of the constraints."""

    def __init__(self, attack: PDGD, clean: Tensor, targets: Tensor):
        self._attack = attack
        self._targets = targets
        self._valid = targets != IGNORED
        self._box = (-clean, 1 - clean)
        self._mean = torch.zeros_like(clean)
        self._squares = torch.zeros_like(clean)
        count = self._valid.flatten(1).sum(1).double()
        start = -(count * attack.dual_ratio).log()
        self._logits = start.view(-1, 1, 1).expand(targets.shape)
        self._average = _weights(self._logits, self._valid)
        self._norm_weight: Tensor

    def loss(self, logits: Tensor, enough: Tensor, step: int) -> Tensor:
        attack = self._attack
        margin = margins(logits, self._targets, attack.targeted)
        kept = attack.kept(margin, self._targets, step)
        if step:
            now = _weights(self._logits, kept)
            self._average = self._average * attack.dual_average + now * (1 - attack.dual_average)
        weights = torch.where(kept, self._average, 0)
        # Clamped: the sum of the other weights may round to one.
        self._norm_weight = (1 - weights.flatten(1).sum(1)).clamp_min(1e-15)
        self.gain = weights.flatten(1).amax(1)
        rate = attack.dual_step * _linear(attack.dual_decay, step, attack.steps)
        self._logits = self._logits + rate * torch.where(kept, margin.detach().sign(), 0)
        self._logits = self._logits.clamp(math.log(attack.dual_floor), -math.log(attack.dual_floor))
        return (F.softplus(margin) * weights).flatten(1).sum(1)

    def move(self, delta: Tensor, grad: Tensor, step: int) -> Tensor:
        # Gradient of the norm, set to zero at zero.
        length = delta.flatten(1).norm(dim=1).clamp_min(torch.finfo(delta.dtype).tiny)
        grad = grad + delta * per_image(self._norm_weight / length, delta).to(delta.dtype)
        return self._adam(delta, grad, step)[0]

    def _adam(self, delta: Tensor, grad: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the next perturbation in the box, and Adam's denominator, B×3×H×W each."""
        first, second, tiny = _ADAM
        self._mean = self._mean * first + grad * (1 - first)
        self._squares = self._squares * second + grad.square() * (1 - second)
        scale = (self._squares / (1 - second ** (step + 1))).sqrt() + tiny
        moved = delta - self._mean / scale * (self._step_size(step) / (1 - first ** (step + 1)))
        return moved.clamp(*self._box), scale

    def _step_size(self, step: int) -> float:
        attack = self._attack
        return float(attack.step_size) * float(attack.step_decay ** (step / attack.steps))


class _ProximalGame(_Game):
    """State of PDPGD on one batch: δ moved by Adam and by the norm's proximal operator."""

    def __init__(self, attack: PDPGD, clean: Tensor, targets: Tensor):
        super().__init__(attack, clean, targets)
        self._operator = prox_linf if attack.norm == "linf" else prox_l2
        self._proximal_steps, self._tolerance = attack.proximal_steps, attack.tolerance

    def move(self, delta: Tensor, grad: Tensor, step: int) -> Tensor:
        target, scale = self._adam(delta, grad, step)
        widest = scale.flatten(1).amax(1)
        metric = scale / per_image(widest, scale)
        weight = self._step_size(step) / widest * (self._norm_weight / (1 - self._norm_weight)).to(delta.dtype)
        point = target
        going = torch.ones_like(weight, dtype=torch.bool)
        for _ in range(self._proximal_steps):
            inner = self._operator(point - metric * (point - target), weight).clamp(*self._box)
            inner = torch.where(per_image(going, inner), inner, point)
            change = (inner - point).flatten(1).norm(dim=1)
            going = going & (change > self._tolerance * inner.flatten(1).norm(dim=1))
            point = inner
        return point


def _weights(logits: Tensor, kept: Tensor) -> Tensor:
    """Compute the softmax over an image's kept constraints and a zero for its norm: B×H×W, zero where not kept."""
    flat = logits.masked_fill(~kept, -float("inf")).flatten(1)
    weights = torch.cat([torch.zeros_like(flat[:, :1]), flat], 1).softmax(1)[:, 1:]
    return weights.view_as(logits)


def _linear(last: float, step: int, steps: int) -> float:
    """Return a factor that falls linearly from 1 at the first step to ``last`` at the final one."""
    return 1 - (1 - last) * step / max(1, steps - 1)
