"""Model under attack: a callable that counts the forwards and backwards of each image."""

from __future__ import annotations

import torch
from torch import Tensor

from robustseg.attacks.guard import Model, NonFiniteError


class Victim:
    """The model under attack, with counts of the forwards and backwards of each image.

    Counts are kept on the CPU, and counting does not wait for the device. A backward is counted when the gradient
    passes the logits, so that several gradients of one forward count several times.

    Args:
        model: Prepared by :func:`~robustseg.attacks.guard.attack_mode`.
        count: Number of images of the batch.
    """

    def __init__(self, model: Model, count: int):
        self.model = model
        self.forwards = torch.zeros(count, dtype=torch.int64)
        """B counts."""
        self.backwards = torch.zeros(count, dtype=torch.int64)
        """B counts."""
        self._rows = torch.arange(count)
        # Zero times the sum of all logits so far, shared by all parts: NaN is never the largest logit, so the pixel
        # would seem fooled.
        self._answers: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        """Compute the logits of ``images``: one per image of this victim, or several versions of the whole batch."""
        logits = self.model(images)
        rows = self._rows.repeat(len(images) // max(1, len(self._rows)))
        self.forwards.index_add_(0, rows, torch.ones_like(rows))
        if isinstance(logits, Tensor):
            doubt = 0 * logits.detach().sum(dtype=torch.promote_types(logits.dtype, torch.float32))
            self._answers[:] = [doubt + sum(self._answers)]
        if isinstance(logits, Tensor) and logits.requires_grad:
            logits.register_hook(lambda _: self._passed(rows))  # type: ignore[no-untyped-call]
        return logits

    def _passed(self, rows: Tensor) -> None:
        self.backwards.index_add_(0, rows, torch.ones_like(rows))

    def refuse_non_finite(self) -> None:
        """Refuse logits that were not finite. The check waits for the device: call it at the end of an attack.

        Raises:
            NonFiniteError: Some logits of the model were not finite.
        """
        if self._answers and not bool(torch.isfinite(self._answers[0])):
            raise NonFiniteError(
                "the attack met logits that are not finite: the model overflows or divides by zero on some perturbed "
                "images; run it in float32 and look for non-finite weights."
            )

    def select(self, rows: Tensor) -> Victim:
        """Return the victim for the images at ``rows`` of this one, with the same counters."""
        part = Victim(self.model, 0)
        part.share(self)
        part._rows = self._rows[rows.cpu()]
        return part

    def share(self, victim: Victim) -> None:
        """Take over the images and counters of ``victim``; both then count together."""
        self.forwards, self.backwards = victim.forwards, victim.backwards
        self._rows, self._answers = victim._rows, victim._answers
