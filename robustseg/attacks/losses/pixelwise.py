"""Losses that sum over pixels: cross-entropy, SegPGD, CosPGD, Jensen–Shannon, Tsallis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustseg.attacks.losses.base import AttackLoss, correct_pixels, cross_entropy


@dataclass(frozen=True)
class CrossEntropy(AttackLoss):
    """Cross-entropy, the loss of FGSM, BIM, PGD, MI-FGSM and dynamic scale."""

    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:  # noqa: D102
        return cross_entropy(logits, targets)


Schedule = Literal["linear", "log", "exp", "constant", "only-correct"]


@dataclass(frozen=True)
class SegPGDLoss(AttackLoss):
    """(1−λ)·Σ CE over correct pixels + λ·Σ CE over wrong ones (Gu et al., ECCV 2022, Eqs. 4 and 5).

    Correct pixels are those of the current iterate, in the forward pass that gives the loss. This follows the paper's
    Eq. 4; in its Algorithm 1 the weights are swapped, and the prediction is that on the clean image. A targeted attack
    gives λ to the pixels that already show the target and 1−λ to the others.

    Args:
        schedule: λ as a function of progress p: ``linear`` p/2, ``log`` ½·log2(1+p), ``exp`` ½·(2^p−1),
            ``constant``, or ``only-correct`` (λ = 0).
        constant: λ of the constant schedule, in [0, 1].
    """

    schedule: Schedule = "linear"
    constant: float = 0.25

    def __post_init__(self) -> None:
        if self.schedule not in ("linear", "log", "exp", "constant", "only-correct"):
            raise ValueError(f"schedule = {self.schedule!r}: use linear, log, exp, constant or only-correct.")
        if not 0 <= self.constant <= 1:
            raise ValueError(f"constant = {self.constant} is outside of [0, 1]: it weights the wrong pixels.")

    def weight_of_wrong(self, progress: float) -> float:
        """Return λ at ``progress`` = (t−1)/T (Eq. 5)."""
        return {
            "linear": progress / 2,
            "log": math.log2(1 + progress) / 2,
            "exp": (2**progress - 1) / 2,
            "constant": self.constant,
            "only-correct": 0.0,
        }[self.schedule]

    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:  # noqa: D102
        wrong = self.weight_of_wrong(progress)
        on_correct, on_wrong = (wrong, 1 - wrong) if targeted else (1 - wrong, wrong)
        with torch.no_grad():
            # Ignored pixels count as wrong here; their cross-entropy is zero.
            weight = correct_pixels(logits, targets).to(logits.dtype).mul_(on_correct - on_wrong).add_(on_wrong)
        return cross_entropy(logits, targets) * weight


@dataclass(frozen=True)
class CosPGDLoss(AttackLoss):
    """Cross-entropy weighted by the cosine between the softmax and the one-hot target (Agnihotri et al., ICML 2024).

    The cosine p_y/‖p‖₂ is a constant for the gradient. A targeted attack weights by one minus the cosine.
    """

    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:  # noqa: D102
        with torch.no_grad():
            probabilities = logits.softmax(1)
            true = probabilities.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
            # Not norm(dim=1), which takes ten times as long on a CPU; nothing here is above 1 or all close to 0.
            cosine: Tensor = true / probabilities.square_().sum(1).sqrt_()
            weight = 1 - cosine if targeted else cosine
        return cross_entropy(logits, targets) * weight


@dataclass(frozen=True)
class JensenShannon(AttackLoss):
    """Jensen–Shannon divergence between the softmax and the one-hot target (SEA, Croce, Singh & Hein, ECCV 2024).

    log 2 + ½·[p_y·log p_y − (1 + p_y)·log(1 + p_y)], between 0 at p_y = 1 and log 2 at p_y = 0. Unlike that of the
    cross-entropy, its gradient vanishes where p_y → 0: confidently fooled pixels no longer contribute. A targeted
    attack decreases it, and then pixels far from the target hardly contribute.
    """

    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:  # noqa: D102
        # A probability of one on ignored pixels, since its divergence is zero.
        log_p = -cross_entropy(logits, targets)
        p, rest = log_p.exp(), _one_minus_exp(log_p)
        # log(1 + p) = log 2 + log1p(−(1 − p)/2), so that no log 2 cancels where p → 1.
        divergence: Tensor = p * log_p - (1 + p) * torch.log1p(-rest / 2) + rest * math.log(2)
        return divergence / 2


@dataclass(frozen=True)
class Tsallis(AttackLoss):
    """Tsallis cross-entropy (1 − p_y^{1−q})/(1−q) with a sweep of q (Tsallis-PGD, arXiv:2605.03405).

    Its gradient is that of the cross-entropy times p_y^{1−q}: a small q weights confident pixels, and the limit at
    q = 1 is the cross-entropy. q is linear in the progress: q_start + (q_end − q_start)·(t−1)/T. The first step has
    ``q_start`` exactly and the last one is (q_end − q_start)/T short of ``q_end``, as SegPGD's λ ends short of ½. A
    targeted attack decreases the same value; with q < 1 pixels far from the target then hardly contribute.

    Args:
        q_start: q of the first step, at most 1.
        q_end: Limit of q at the end of the run, at most 1.

    Raises:
        ValueError: A q above 1, for which p_y^{1−q} overflows on fooled pixels, or that is not finite.
    """

    q_start: float = -2.0
    q_end: float = 1.0

    def __post_init__(self) -> None:
        for name, q in (("q_start", self.q_start), ("q_end", self.q_end)):
            if not -math.inf < q <= 1:
                raise ValueError(f"{name} = {q} is no number up to 1: 1 is the cross-entropy, the paper starts at -2.")

    def q(self, progress: float) -> float:
        """Return q at ``progress`` = (t−1)/T."""
        return self.q_start + (self.q_end - self.q_start) * progress

    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:  # noqa: D102
        losses = cross_entropy(logits, targets)
        power = 1 - self.q(progress)
        # Below this bound the quotient and its limit differ by less than float64 resolves; above, it is accurate.
        return losses if power < 1e-18 else _one_minus_exp(-power * losses) / power


def _one_minus_exp(exponent: Tensor) -> Tensor:
    """Compute 1 − e^x for x ≤ 0, accurate in the value where x → 0 and in the gradient where x → −∞."""
    # The gradient of expm1 is its value plus one, which cancels where the value is nearly −1.
    return torch.where(exponent > -0.5, -torch.expm1(exponent), 1 - exponent.exp())
