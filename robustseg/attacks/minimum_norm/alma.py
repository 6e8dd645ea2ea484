"""ALMA-prox: the smallest L∞ perturbation by an augmented Lagrangian with a proximal step."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from robustseg.attacks.losses.base import correct_pixels
from robustseg.attacks.minimum_norm.constraints import DropLargest, margin_ratios
from robustseg.attacks.minimum_norm.descent import DescentAttack, Search
from robustseg.attacks.minimum_norm.proximal import prox_linf
from robustseg.attacks.threat import Norm, per_image

_STEEPEST = 1e8
"""Bound of ρ. Squared gradients contain its fourth power and must stay within float32."""


class ALMAProx(DescentAttack):
    """ALMA-prox (Rony, Pesquet & Ben Ayed, CVPR 2023, "Proximal Splitting Adversarial Attack for Semantic
    Segmentation"): minimises ‖δ‖∞ subject to one constraint per valid pixel.

    A constraint c is the pixel's difference-of-logits ratio, negative once it is fooled, times the image's scale w.
    Each step

    1. divides w by 1 + ``scale_rate`` where the image is fooled enough and by 1 − ``scale_rate`` where it is not;
    2. drops the constraints that ``success`` does not require;
    3. every ``check_every`` steps multiplies the pixel's ρ by ``penalty_growth``, unless the pixel was fooled in the
       meantime or c fell to ``improvement`` times its value at the check before (at the first step, at first);
    4. moves the pixel's multiplier μ to ``average``·μ + (1 − ``average``)·P′(c), within [1e-12, 1];
    5. takes a variable-metric forward-backward step on Σ P(c) + ‖δ‖∞: the gradient over h = √(running mean of its
       squares) times λ, and the exact proximal operator of λ·‖·‖∞ and the box in the metric h.

    P is the penalty-Lagrangian μc + μρc² + ρ²c³/6 for c ≥ 0 and μc / (1 − max(ρ, 1)·c) below. λ is ``step_size``
    until the image is first fooled enough, at the latest until half of the steps; from there it falls as a hyperbola
    to ``step_decay`` times that at the end. So perturbations beyond about 0.6 · ``step_size`` · ``steps``, 0.3 by
    default, are out of reach. Each step sorts the entries of an image's perturbation.

    Defaults are those of the authors' experiments (jeromerony/alma_prox_segmentation) and of adv-lib 0.2.8. That code
    differs in four points. Its derivative of P has μc instead of μ for c ≥ 0, so that a pixel's weight vanishes as the
    pixel comes close to being fooled; here the derivative is that of P. It keeps the last of the constraints that
    could be dropped, adds ``surplus`` with the sign that helps the attacker if targeted, and solves the proximal step
    up to 1e-6. The bound ρ ≤ 1e8 and the margin instead of the ratio for two classes are our choices.

    Args:
        step_size: First λ, in units of the [0, 1] pixel range: about the change of a channel in one step.
        step_decay: Last λ over the first, in (0, 1].
        multiplier: First μ of every pixel, in (0, 1].
        penalty: First ρ of every pixel, positive.
        check_every: Steps between two checks of the constraints' progress (M in the paper).
        improvement: τ in (0, 1): a constraint improved if it fell to τ times its last value.
        penalty_growth: γ ≥ 1.
        average: α in [0, 1): inertia of μ.
        metric_average: Inertia of the squared gradients, in [0, 1); ``average`` if None.
        scale_range: Smallest and largest w, a pair.
        scale_start: First w.
        scale_rate: Change of w in one step, in [0, 1).
        surplus: Logit difference by which a pixel must be fooled.
        drop_largest: ``"gradually"`` by default; or ``"never"``, or ``"always"``.
        norm: ``"linf"``.
        **options: Arguments of :class:`~robustseg.attacks.minimum_norm.descent.DescentAttack`.

    Raises:
        ValueError: A value outside of its range.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    def __init__(
        self,
        *,
        step_size: float | str = 0.001,
        step_decay: float = 0.1,
        multiplier: float = 1.0,
        penalty: float = 0.01,
        check_every: int = 10,
        improvement: float = 0.95,
        penalty_growth: float = 2.0,
        average: float = 0.8,
        metric_average: float | None = None,
        scale_range: tuple[float, float] = (0.1, 1.0),
        scale_start: float = 1.0,
        scale_rate: float = 0.02,
        surplus: float = 1e-4,
        drop_largest: DropLargest = "gradually",
        norm: Norm = "linf",
        **options: Any,
    ):
        super().__init__(step_size=step_size, drop_largest=drop_largest, norm=norm, **options)
        self.step_decay = step_decay
        self.multiplier = multiplier
        self.penalty = penalty
        self.check_every = check_every
        self.improvement = improvement
        self.penalty_growth = penalty_growth
        self.average = average
        self.metric_average = average if metric_average is None else metric_average
        self.scale_range = (scale_range[0], scale_range[1])
        self.scale_start = scale_start
        self.scale_rate = scale_rate
        self.surplus = surplus
        self._check()

    def _check(self) -> None:
        lowest, highest = self.scale_range
        for name, right, wanted in (
            ("step_decay", 0 < self.step_decay <= 1, "in (0, 1], 0.1 by default"),
            ("multiplier", 0 < self.multiplier <= 1, "in (0, 1], 1 by default"),
            ("penalty", 0 < self.penalty <= _STEEPEST, "positive, 0.01 by default"),
            ("check_every", self.check_every >= 1, "1 or more, 10 by default"),
            ("improvement", 0 < self.improvement < 1, "in (0, 1), 0.95 by default"),
            ("penalty_growth", self.penalty_growth >= 1, "1 or more, 2 by default"),
            ("average", 0 <= self.average < 1, "in [0, 1), 0.8 by default"),
            ("metric_average", 0 <= self.metric_average < 1, "in [0, 1), as average by default"),
            ("scale_range", 0 < lowest <= highest, "two positive numbers in order, 0.1 and 1 by default"),
            ("scale_start", lowest <= self.scale_start <= highest, "within scale_range, 1 by default"),
            ("scale_rate", 0 <= self.scale_rate < 1, "in [0, 1), 0.02 by default"),
            ("surplus", self.surplus >= 0, "0 or more, 1e-4 by default"),
        ):
            if not right:
                raise ValueError(f"{name} = {getattr(self, name)}: it must be {wanted}.")

    def begin(self, clean: Tensor, targets: Tensor) -> Search:  # noqa: D102
        return _ALMASearch(self, clean, targets)

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            **super().describe(),
            "step_decay": self.step_decay,
            "multiplier": self.multiplier,
            "penalty": self.penalty,
            "check_every": self.check_every,
            "improvement": self.improvement,
            "penalty_growth": self.penalty_growth,
            "average": self.average,
            "metric_average": self.metric_average,
            "scale_range": list(self.scale_range),
            "scale_start": self.scale_start,
            "scale_rate": self.scale_rate,
            "surplus": self.surplus,
        }


class _ALMASearch(Search):
    """μ, ρ, w, λ and the metric of one batch; the values per pixel are float64, since ρ grows by powers."""

    def __init__(self, attack: ALMAProx, clean: Tensor, targets: Tensor):
        self._attack = attack
        self._targets = targets
        self._box = (-clean, 1 - clean)
        self._squares = torch.zeros_like(clean)
        self._multiplier = torch.full_like(targets, attack.multiplier, dtype=torch.float64)
        self._penalty = torch.full_like(targets, attack.penalty, dtype=torch.float64)
        self._fooled_since = torch.zeros_like(targets, dtype=torch.bool)
        self._before: Tensor
        self._scale = torch.full((len(clean),), attack.scale_start, device=clean.device, dtype=torch.float64)
        # λ falls from this step on, or earlier once the image is fooled.
        self._falls_from = torch.full_like(self._scale, attack.steps // 2)
        self._found = torch.zeros(len(clean), device=clean.device, dtype=torch.bool)

    def loss(self, logits: Tensor, enough: Tensor, step: int) -> Tensor:
        attack = self._attack
        self._falls_from = torch.where(enough & ~self._found & (step < attack.steps // 2), step, self._falls_from)
        self._found |= enough
        rate = torch.where(enough, 1 + attack.scale_rate, 1 - attack.scale_rate)
        self._scale = (self._scale / rate).clamp(*attack.scale_range)

        ratios = margin_ratios(logits, self._targets, attack.targeted, attack.surplus).double()
        constraints = ratios * self._scale.view(-1, 1, 1)
        values = constraints.detach()
        kept = attack.kept(values, self._targets, step)
        self._fooled_since |= correct_pixels(logits.detach(), self._targets) == attack.targeted
        if step == 0:
            self._before = values
        elif (step + 1) % attack.check_every == 0:
            # A dropped constraint is set to zero, which counts as fulfilled.
            improved = torch.where(kept, values, 0) <= attack.improvement * self._before
            grown = (self._penalty * attack.penalty_growth).clamp_max(_STEEPEST)
            self._penalty = torch.where(self._fooled_since | improved, self._penalty, grown)
            self._before = values
            self._fooled_since = torch.zeros_like(self._fooled_since)
        if step:
            slope = torch.where(kept, penalty_slope(values, self._penalty, self._multiplier), 0)
            self._multiplier = self._multiplier.lerp(slope, 1 - attack.average).clamp(1e-12, 1)
        weights = torch.where(kept, penalty_slope(values, self._penalty, self._multiplier), 0)
        self.gain = weights.flatten(1).amax(1).clamp_min(1e-30)
        total = penalty_value(constraints, self._penalty, self._multiplier)
        return torch.where(kept, total, 0).flatten(1).sum(1)

    def move(self, delta: Tensor, grad: Tensor, step: int) -> Tensor:
        attack = self._attack
        rate = attack.metric_average
        self._squares = self._squares * rate + grad.square() * (1 - rate)
        metric = (self._squares / (1 - rate ** (step + 1))).sqrt().clamp_min(1e-8)
        size = self._step_size(step)
        moved = delta - grad / metric * per_image(size, delta).to(delta.dtype)
        return prox_linf(moved, size, metric, self._box)

    def _step_size(self, step: int) -> Tensor:
        """Return λ of each image, B values."""
        first, decay = float(self._attack.step_size), self._attack.step_decay
        if decay == 1:
            return torch.full_like(self._falls_from, first)
        bend = decay / (1 - decay) * (self._attack.steps - self._falls_from).clamp_min(1)
        return first * bend / ((step - self._falls_from).clamp_min(0) + bend)


def penalty_value(constraints: Tensor, penalty: Tensor, multiplier: Tensor) -> Tensor:
    """Compute P(c, ρ, μ) of each pixel; see :class:`ALMAProx`."""
    above = constraints.clamp_min(0)
    below = constraints.clamp_max(0)
    rising = multiplier * above + multiplier * penalty * above**2 + penalty**2 * above**3 / 6
    falling = multiplier * below / (1 - penalty.clamp_min(1) * below)
    return torch.where(constraints >= 0, rising, falling)


def penalty_slope(constraints: Tensor, penalty: Tensor, multiplier: Tensor) -> Tensor:
    """Compute the derivative of P(c, ρ, μ) with respect to c."""
    above = constraints.clamp_min(0)
    below = constraints.clamp_max(0)
    rising = multiplier + 2 * multiplier * penalty * above + penalty**2 * above**2 / 2
    falling = multiplier / (1 - penalty.clamp_min(1) * below) ** 2
    return torch.where(constraints >= 0, rising, falling)
