"""The most successful adversarial images seen so far, per image."""

from __future__ import annotations

import torch
from torch import Tensor

from robustseg.attacks.losses.base import IGNORED, correct_pixels
from robustseg.attacks.threat import per_image


class Best:
    """The best iterate of each image: fewest correct pixels, or most pixels that show the target if targeted.

    All attacks share this mask and this count of correct pixels. Among equal iterates the earliest is kept. Only
    :meth:`unfinished` waits for the device.

    Args:
        targets: B×H×W, :data:`~robustseg.attacks.losses.base.IGNORED` where ignored.
        targeted: ``targets`` are the attacker's labels.
    """

    def __init__(self, targets: Tensor, targeted: bool):
        self._targets = targets
        self._targeted = targeted
        # A score that only grows: minus the correct pixels, or the pixels that show the target.
        self._score: Tensor | None = None
        self._perfect = (targets != IGNORED).flatten(1).sum(1) if targeted else torch.zeros_like(targets[:, 0, 0])
        self.images_adv: Tensor

    def offer(self, images_adv: Tensor, logits: Tensor, rows: Tensor | None = None) -> None:
        """Compare an iterate with the best so far.

        Args:
            images_adv: The iterate, of the images at ``rows``.
            logits: B×C×H×W, the model's output for it.
            rows: Indices of these images; all by default. The first call takes all.
        """
        everything = rows is None or len(rows) == len(self._targets)
        targets = self._targets if everything or rows is None else self._targets[rows]
        hits = correct_pixels(logits, targets).flatten(1).sum(1)
        score = hits if self._targeted else -hits
        if self._score is None:
            self._score, self.images_adv = score, images_adv.clone()
        elif everything or rows is None:
            better = score > self._score
            self._score = torch.where(better, score, self._score)
            self.images_adv = torch.where(per_image(better, images_adv), images_adv, self.images_adv)
        else:
            before = self._score[rows]
            better = score > before
            self._score = self._score.index_copy(0, rows, torch.where(better, score, before))
            kept = torch.where(per_image(better, images_adv), images_adv, self.images_adv[rows])
            self.images_adv = self.images_adv.index_copy(0, rows, kept)

    def unfinished(self, rows: Tensor) -> Tensor:
        """Return the positions within ``rows`` of the images that can still improve; waits for the device."""
        if self._score is None:
            return torch.arange(len(rows), device=rows.device)
        return (self._score[rows] < self._perfect[rows]).nonzero()[:, 0]
