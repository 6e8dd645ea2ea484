"""Losses on the pixels that are not fooled yet, and losses of the angle between logits and target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustseg.attacks.errors import AttackError
from robustseg.attacks.losses.base import AttackLoss, ClassPixels, correct_pixels, cross_entropy
from robustseg.devices import on_device


def open_pixels(logits: Tensor, targets: Tensor, targeted: bool) -> Tensor:
    """Return a mask of the pixels that are not fooled yet: B×H×W bool, detached, False on ignored pixels.

    These are the correctly predicted pixels, or, if targeted, the pixels that do not show the target yet.
    """
    with torch.no_grad():
        hit = correct_pixels(logits, targets)
        return ~hit & (targets >= 0) if targeted else hit


@dataclass(frozen=True)
class MaskedCrossEntropy(AttackLoss):
    """Cross-entropy on correct pixels only, MCE of SEA (Croce, Singh & Hein, ECCV 2024).

    The mask comes from the current iterate and is a constant for the gradient; an image without a correct pixel no
    longer moves. A targeted attack takes the pixels that do not show the target yet.
    """

    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:  # noqa: D102
        return cross_entropy(logits, targets) * open_pixels(logits, targets, targeted)


@dataclass(frozen=True)
class BalancedMaskedCrossEntropy(AttackLoss):
    """:class:`MaskedCrossEntropy` with weights 1/N_y, MCE-Bal of SEA (Croce, Singh & Hein, ECCV 2024).

    N_y is the number of pixels of class y in the training set. Rare classes so count as much in the loss as they do in
    the mIoU. The weights are scaled to a mean of 1 over the classes that occur; the scale does not matter. A class
    that does not occur gets the weight of the rarest one that does (our choice: 1/0 is no weight, and with 0 an attack
    would never change its pixels). If targeted, y is the attacker's class.

    Args:
        class_pixels: N_y of each class in the order of the logits, C numbers; counts or shares. None leaves them to
            :meth:`Attack.for_data`: an evaluation counts them in the training split of its data.

    Raises:
        ValueError: No number is positive, or one is negative or not finite.
    """

    class_pixels: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        given: Sequence[float] | None = self.class_pixels
        if given is None:
            return
        # A tuple is hashable; a configuration file gives a list.
        object.__setattr__(self, "class_pixels", tuple(given))
        if not all(0 <= count < math.inf for count in given) or not any(given):
            raise ValueError(
                f"class_pixels = {given}: the number of training pixels of each class, 0 or more, and not all 0."
            )

    @property
    def weights(self) -> list[float]:
        """Factor of each class.

        Raises:
            AttackError: ``class_pixels`` are not known.
        """
        if self.class_pixels is None:
            raise AttackError(
                "class_pixels = None: the balanced loss needs the pixels of each class in the training set, in the "
                "order of the logits; a data set counts them, CamVid(root=...).class_pixels() for example."
            )
        present = [count for count in self.class_pixels if count]
        # Relative to the rarest class, so that shares as well as large counts stay clear of overflow.
        rarest = min(present)
        mean = sum(rarest / count for count in present) / len(present)
        return [(rarest / count if count else 1.0) / mean for count in self.class_pixels]

    def for_data(self, class_pixels: ClassPixels) -> AttackLoss:
        """Return the loss with the class pixels of the data set, unless they were given."""
        return self if self.class_pixels is not None else BalancedMaskedCrossEntropy(tuple(class_pixels()))

    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:  # noqa: D102
        known = self.weights
        if len(known) != logits.shape[1]:
            raise AttackError(
                f"class_pixels has {len(known)} numbers but the model has {logits.shape[1]} classes: give "
                "the number of training pixels of each class, in the order of the logits."
            )
        weights = on_device(torch.tensor(known, dtype=logits.dtype), logits.device)
        weight = weights[targets.clamp_min(0)] * open_pixels(logits, targets, targeted)
        return cross_entropy(logits, targets) * weight


def target_cosine(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute (u/‖u‖₂)_y, the cosine between a pixel's logits and its one-hot target: B×H×W, y = 0 where ignored."""
    true = logits.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
    length = torch.linalg.vector_norm(logits, dim=1)
    # Logits that are all zero have no direction; divided by one they keep a finite gradient.
    return true / torch.where(length > 0, length, torch.ones_like(length))


@dataclass(frozen=True)
class MaskedSpherical(AttackLoss):
    """−(u/‖u‖₂)_y on correct pixels, the masked spherical loss MSL (Croce, Singh & Hein, arXiv:2306.12941v1).

    The logits u are divided by their length, which is differentiated, so that confidence has no effect. The mask is
    that of :class:`MaskedCrossEntropy`; a targeted attack takes the pixels that do not show the target yet.
    """

    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:  # noqa: D102
        return -target_cosine(logits, targets) * open_pixels(logits, targets, targeted)


@dataclass(frozen=True)
class LogitCosine(AttackLoss):
    """1 − cos(u, onehot(y)) = 1 − (u/‖u‖₂)_y on all valid pixels (PAdam-Cos, Halmosi, Mohos & Jelasity, ECCV 2024).

    The cosine is that of the logits u and is differentiated; CosPGD instead weights with a cosine of the softmax. A
    targeted attack decreases it.
    """

    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:  # noqa: D102
        return (1 - target_cosine(logits, targets)) * (targets >= 0)
