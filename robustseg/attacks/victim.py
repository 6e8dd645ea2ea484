"""Model under attack: a callable that counts the forwards and backwards of each image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from robustseg.attacks.checks import checked_answer
from robustseg.attacks.errors import AttackError, NoGradientError
from robustseg.attacks.gradients import NO_GRADIENT
from robustseg.attacks.guard import Guarded, Model


@dataclass
class _Answers:
    """Facts about all logits so far, shared by all parts of a victim."""

    doubt: Tensor | float = 0.0
    """Zero times the sum of all logits: NaN is never the largest logit, so the pixel would seem fooled."""
    kind: tuple[int, torch.dtype] | None = None
    """Number of classes and dtype; None before the first forward."""
    guard: Guarded | None = None
    """The model, if its forwards run in the precision of a search."""


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
        searches = isinstance(model, Guarded) and model.searching is not None
        self._answers = _Answers(guard=model if searches else None)  # type: ignore[arg-type]

    def __call__(self, images: Tensor) -> Tensor:
        """Compute the logits of ``images``: one per image of this victim, or several versions of the whole batch.

        Raises:
            AttackError: The model returned no logits of these images, others than on its forwards before, or logits
                without a gradient to images that need one.
        """
        logits = checked_answer(self.model(images), images)
        if not torch.is_grad_enabled():  # another thread, or a model that enables autograd itself, built a graph
            logits = logits.detach()
        self._compare(logits)
        rows = self._rows.repeat(len(images) // max(1, len(self._rows)))
        self.forwards.index_add_(0, rows, torch.ones_like(rows))
        doubt = 0 * logits.detach().sum(dtype=torch.promote_types(logits.dtype, torch.float32))
        self._answers.doubt = self._answers.doubt + doubt
        if logits.requires_grad:
            logits.register_hook(lambda _: self._passed(rows))  # type: ignore[no-untyped-call]
        elif images.requires_grad and torch.is_grad_enabled():
            raise NoGradientError(NO_GRADIENT)
        return logits

    @property
    def searches(self) -> bool:
        """True if forwards run in the precision of a search, so that only :meth:`verdict` may judge its results."""
        return self._answers.guard is not None

    @property
    def searched(self) -> bool:
        """True if some forward so far was one of a search in its own precision."""
        guard = self._answers.guard
        return guard is not None and guard.searching is not None and guard.searching.used

    def verdict(self, images: Tensor) -> Tensor:
        """Compute the logits of ``images`` in float32 and without a graph, to judge what a search has found."""
        guard = self._answers.guard
        with torch.no_grad(), nullcontext() if guard is None else guard.judging():
            return self(images)

    def confirmed(
        self, found: Tensor, doubtful: Tensor, images: Tensor, judge: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Return what a search found out about images, with a verdict in the place of what is doubtful.

        Waits for the device if this victim :attr:`searches`; otherwise its forwards are verdicts already.

        Args:
            found: B×…, found out from the logits of a search.
            doubtful: B bool, the images to judge.
            images: B×3×H×W.
            judge: Function of the logits of the judged images, and of their positions within B, that returns what
                there is to say about them in the form of ``found``.
        """
        if not self.searches:
            return found
        rows = doubtful.nonzero()[:, 0]
        if not len(rows):
            return found
        return found.index_copy(0, rows, judge(self.select(rows).verdict(images[rows]), rows))

    def _compare(self, logits: Tensor) -> None:
        """Refuse logits of another number of classes or dtype than before; does not wait for the device."""
        kind = (logits.shape[1], logits.dtype)
        if self._answers.kind not in (None, kind):
            classes, dtype = self._answers.kind or kind
            raise AttackError(
                f"the model returned {logits.shape[1]} classes in {logits.dtype} after {classes} classes in {dtype}: "
                "an attack needs a model that answers every forward alike; look for a state that it keeps."
            )
        self._answers.kind = kind

    def _passed(self, rows: Tensor) -> None:
        self.backwards.index_add_(0, rows, torch.ones_like(rows))

    def doubt(self, device: torch.device) -> Tensor:
        """Return one float64 on ``device`` that is not finite if some logits were not; does not wait for it."""
        return torch.as_tensor(self._answers.doubt, dtype=torch.float64, device=device)

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
