"""The most successful adversarial images seen so far, per image."""

from __future__ import annotations

import torch
from torch import Tensor

from robustseg.attacks.losses.base import IGNORED, correct_pixels
from robustseg.attacks.threat import per_image
from robustseg.attacks.victim import Victim
from robustseg.devices import on_device, positions


class Best:
    """The best iterate of each image: fewest correct pixels, or most pixels that show the target if targeted.

    All attacks share this mask and this count of correct pixels. Among equal iterates the earliest is kept. Only
    :meth:`unfinished` waits for the device.

    In a search in low precision the best iterate is a candidate, until :meth:`settle` has the model judge it.

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
        self._judged: Tensor | None = None
        self._settled: Tensor
        self._candidates: Tensor

    @property
    def images_adv(self) -> Tensor:
        """B×3×H×W, the best iterates; of those that were judged, if any were."""
        return self._candidates if self._judged is None else self._settled

    def offer(self, images_adv: Tensor, logits: Tensor, rows: Tensor | None = None) -> None:
        """Compare an iterate with the best so far.

        Args:
            images_adv: The iterate, of the images at ``rows``.
            logits: B×C×H×W, the model's output for it.
            rows: Indices of these images; all by default. The first call takes all.
        """
        everything = rows is None or len(rows) == len(self._targets)
        targets = self._targets if everything or rows is None else self._targets[rows]
        score = self._rate(logits, targets)
        if self._score is None:
            self._score, self._candidates = score, images_adv.clone()
        elif everything or rows is None:
            better = score > self._score
            self._score = torch.where(better, score, self._score)
            self._candidates = torch.where(per_image(better, images_adv), images_adv, self._candidates)
        else:
            before = self._score[rows]
            better = score > before
            self._score = self._score.index_copy(0, rows, torch.where(better, score, before))
            kept = torch.where(per_image(better, images_adv), images_adv, self._candidates[rows])
            self._candidates = self._candidates.index_copy(0, rows, kept)

    def settle(self, victim: Victim, rows: Tensor) -> None:
        """Have the candidates judged, keep those that are better than what was judged before, and begin anew.

        Does nothing if the forwards of ``victim`` are verdicts already; then the candidates are the results.

        Args:
            victim: The model, with the images at ``rows``.
            rows: Indices of these images.
        """
        if not victim.searches:
            return
        assert self._score is not None
        lowest = torch.iinfo(self._score.dtype).min
        new = positions(self._score[rows] > lowest)
        if not len(new):
            return
        victim, rows = victim.select(new), rows[on_device(new, rows.device)]
        if self._judged is None:
            self._judged, self._settled = torch.full_like(self._score, lowest), self._candidates
        found = self._candidates[rows]
        score = self._rate(victim.verdict(found), self._targets[rows])
        better = score > self._judged[rows]
        kept = torch.where(per_image(better, found), found, self._settled[rows])
        self._settled = self._settled.index_copy(0, rows, kept)
        self._judged = self._judged.index_copy(0, rows, torch.maximum(score, self._judged[rows]))
        self._score = self._score.index_fill(0, rows, lowest)

    def confirm(self, victim: Victim, rows: Tensor) -> None:
        """Have the candidates of images that look finished judged, as :meth:`settle`; arguments as there."""
        if victim.searches and self._score is not None:
            done = torch.ones(len(rows), dtype=torch.bool).index_fill(0, self.unfinished(rows), False).nonzero()[:, 0]
            self.settle(victim.select(done), rows[on_device(done, rows.device)])

    def unfinished(self, rows: Tensor) -> Tensor:
        """Return the positions on the CPU, within ``rows``, of images that can still improve; waits for the device."""
        if self._score is None:
            return torch.arange(len(rows))
        score = self._score if self._judged is None else torch.maximum(self._score, self._judged)
        return positions(score[rows] < self._perfect[rows])

    def _rate(self, logits: Tensor, targets: Tensor) -> Tensor:
        hits = correct_pixels(logits, targets).flatten(1).sum(1)
        return hits if self._targeted else -hits
