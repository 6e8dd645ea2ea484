"""The interface of every attack loss: one value per image.

``targets`` are class ids, :data:`IGNORED` on ignored pixels. A loss sums over the valid pixels of one image only, so
that no image depends on the rest of its batch. The scale does not matter to the step rules; a sum avoids the underflow
of fp16 gradients that a mean would cause.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from robustseg.attacks.settings import Checked

IGNORED = -100
"""Label of ignored pixels inside the attacks; the ignore index of the data is mapped to it on entry."""


def correct_pixels(logits: Tensor, targets: Tensor) -> Tensor:
    """Return a mask of the pixels predicted as the target class: B×H×W bool, False on ignored pixels.

    The true logit is compared with the largest one, which costs less than an argmax; a tie counts as predicted.

    Args:
        logits: B×C×H×W.
        targets: B×H×W, :data:`IGNORED` where ignored.
    """
    true_logit = logits.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
    return (true_logit >= logits.amax(1)) & (targets >= 0)


ClassPixels = Callable[[], Sequence[float]]
"""Function that counts the pixels of each class in a training set, C numbers; called only if they are needed."""


class AttackLoss(Checked, ABC):
    """Base of all attack losses: one value per image from the logits, with the conventions of this module."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool = False) -> Tensor:
        """Compute the loss of each image.

        Args:
            logits: B×C×H×W; half precision is computed in float32.
            targets: B×H×W, :data:`IGNORED` where ignored.
            progress: (t−1)/T at step t = 1..T.
            targeted: ``targets`` are the attacker's labels, and the attack decreases the loss.

        Returns:
            B values.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return self.per_pixel(logits, targets, progress, targeted).flatten(1).sum(1)

    def for_data(self, class_pixels: ClassPixels) -> AttackLoss:
        """Return the loss with the facts about a data set that its settings left open, see :meth:`Attack.for_data`."""
        return self

    @abstractmethod
    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:
        """Compute the loss of each pixel, B×H×W, zero on ignored ones. Arguments as for the call."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the cross-entropy of each pixel, B×H×W, zero where ignored."""
    return F.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)
