"""What an attack increases (untargeted) or decreases (targeted): one value per image.

``targets`` are class ids with :data:`IGNORED` where a pixel takes no part. A loss is a sum over the valid pixels of
one image and of nothing else, so that no image depends on the rest of its batch. The scale does not matter to the
step rules, and a sum keeps fp16 gradients from underflowing as a mean would.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of ignored pixels inside the attacks; the ignore index of the data is mapped to it on entry."""


def correct_pixels(logits: Tensor, targets: Tensor) -> Tensor:
    """Where the model predicts the target class: B×H×W bool, False on ignored pixels.

    The true logit is compared with the largest one, which costs less than an argmax; a tie counts as predicted.

    Args:
        logits: B×C×H×W.
        targets: B×H×W, :data:`IGNORED` where ignored.
    """
    true_logit = logits.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
    return (true_logit >= logits.amax(1)) & (targets >= 0)


class AttackLoss(ABC):
    """One value per image from the logits; see the module's text for the conventions."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool = False) -> Tensor:
        """Loss of each image.

        Args:
            logits: B×C×H×W; half precision is computed in float32.
            targets: B×H×W, :data:`IGNORED` where ignored.
            progress: (t−1)/T at step t = 1..T.
            targeted: ``targets`` are what the attacker wants to see, and the loss will be decreased.

        Returns:
            B values.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return self.per_pixel(logits, targets, progress, targeted).flatten(1).sum(1)

    @abstractmethod
    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:
        """Loss of each pixel, B×H×W, zero on ignored ones. Arguments as for the call."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each pixel, B×H×W, zero where ignored."""
    return F.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)


@dataclass(frozen=True)
class CrossEntropy(AttackLoss):
    """Cross-entropy: FGSM, BIM, PGD, MI-FGSM, dynamic scale."""

    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:  # noqa: D102
        return cross_entropy(logits, targets)


Schedule = Literal["linear", "log", "exp", "constant", "only-correct"]


@dataclass(frozen=True)
class SegPGDLoss(AttackLoss):
    """(1−λ)·Σ CE over correct pixels + λ·Σ CE over wrong ones (Gu et al., ECCV 2022, Eqs. 4 and 5).

    Correct is decided on the current iterate, in the forward pass that gives the loss. The weights of the paper's
    Algorithm 1 are swapped, and it predicts on the clean image: its Eq. 4 is what is computed here. A targeted
    attack gives λ to the pixels that already show the target and 1−λ to the others.

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
        """λ at ``progress`` = (t−1)/T (Eq. 5)."""
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
            cosine: Tensor = true / probabilities.norm(dim=1)
            weight = 1 - cosine if targeted else cosine
        return cross_entropy(logits, targets) * weight
