"""The interface of every attack loss: one value per image.

``targets`` are class ids with :data:`IGNORED` where a pixel takes no part. A loss is a sum over the valid pixels of
one image and of nothing else, so that no image depends on the rest of its batch. The scale does not matter to the
step rules, and a sum keeps fp16 gradients from underflowing as a mean would.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

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


ClassPixels = Callable[[], Sequence[float]]
"""Counts the pixels of each class in a training set: C numbers. Called only where they are needed."""


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

    def for_data(self, class_pixels: ClassPixels) -> AttackLoss:
        """This loss with what it needs to know of a data set, see :meth:`Attack.for_data`."""
        return self

    @abstractmethod
    def per_pixel(self, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:
        """Loss of each pixel, B×H×W, zero on ignored ones. Arguments as for the call."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each pixel, B×H×W, zero where ignored."""
    return F.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)
