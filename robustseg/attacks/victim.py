"""The model as an attack sees it: a callable that counts what is asked of it, image by image."""

from __future__ import annotations

import torch
from torch import Tensor

from robustseg.attacks.guard import Model


class Victim:
    """Forwards to the model and counts the forwards and backwards of each image.

    Counts are kept on the CPU and nothing waits for the device. A backward is counted when the gradient passes the
    logits, so that several gradients of one forward count several times.

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

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of ``images``: one per image of this victim, or several versions of all, one batch after the other."""
        logits = self.model(images)
        rows = self._rows.repeat(len(images) // max(1, len(self._rows)))
        self.forwards.index_add_(0, rows, torch.ones_like(rows))
        if isinstance(logits, Tensor) and logits.requires_grad:
            logits.register_hook(lambda _: self._passed(rows))  # type: ignore[no-untyped-call]
        return logits

    def _passed(self, rows: Tensor) -> None:
        self.backwards.index_add_(0, rows, torch.ones_like(rows))

    def select(self, rows: Tensor) -> Victim:
        """The same model for some of the images, with the same counters; ``rows`` index the images of this one."""
        part = Victim(self.model, 0)
        part.forwards, part.backwards = self.forwards, self.backwards
        part._rows = self._rows[rows.cpu()]
        return part
