"""Model under attack: a callable that counts the forwards and backwards of each image."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustseg.attacks.checks import check_first, checked_answer, doubt_of
from robustseg.attacks.entry import Aims
from robustseg.attacks.errors import AttackError, NoGradientError, NonFiniteError
from robustseg.attacks.gradients import NO_GRADIENT, refuse_non_finite
from robustseg.attacks.guard import Guarded, Model
from robustseg.attacks.scaling import Scaling, in_float16
from robustseg.devices import on_device, positions, read

_Unknown = Callable[[int], str]


@dataclass
class _Answers:
    """Facts about all answers and gradients so far, shared by all parts of a victim."""

    aims: tuple[object, Aims] | None
    """An attack that makes its own targets, and these, for all images."""
    doubt: Tensor | None = None
    """Zero, or NaN if some logits were not finite: NaN is never the largest logit, so the pixel would seem fooled."""
    slopes: Tensor | None = None
    """Sum of all gradients."""
    kind: tuple[int, torch.dtype] | None = None
    """Number of classes and dtype; None before the first forward."""
    guard: Guarded | None = None
    """The model within its attack mode, whatever wraps it."""
    wanted: list[tuple[int, _Unknown]] = field(default_factory=list)
    """Classes that the model must have, each with the message for a model of so many classes."""


class Victim:
    """The model under attack, with counts of the forwards and backwards of each image.

    Counts are kept on the CPU, and counting does not wait for the device. A backward is counted when the gradient
    passes the logits, so that several gradients of one forward count several times.

    The first answer is looked at, which waits for the device, if :meth:`require` was called. That later answers and all
    gradients are finite is found at the end, by :meth:`refuse_non_finite`.

    A model in float16, or under autocast to it, neither loses nor overflows gradients: they are scaled within it, see
    :mod:`~robustseg.attacks.scaling`, and return as they are.

    Args:
        model: Prepared by :func:`~robustseg.attacks.guard.attack_mode`.
        count: Number of images of the batch.
        aims: An attack that makes its own targets, and these.
        dtype: Type of the images that the model takes, to which others are cast; None for their own.
    """

    def __init__(
        self,
        model: Model,
        count: int,
        aims: tuple[object, Aims] | None = None,
        dtype: torch.dtype | None = None,
    ):
        self.model = model
        self._dtype = dtype
        self.forwards = torch.zeros(count, dtype=torch.int64)
        """B counts."""
        self.backwards = torch.zeros(count, dtype=torch.int64)
        """B counts."""
        self._rows = torch.arange(count)
        self._answers = _Answers(aims, guard=model if isinstance(model, Guarded) else None)

    def __call__(self, images: Tensor) -> Tensor:
        """Compute the logits of ``images``: one per image of this victim, or several versions of the whole batch.

        Raises:
            AttackError: The model returned no logits of these images, others than on its forwards before, or logits
                without a gradient to images that need one.
        """
        guard = self._answers.guard
        scaling = Scaling(together=guard is not None and guard.together)
        seen = scaling.entering(images).to(self._dtype or images.dtype)
        logits = checked_answer(self.model(seen), seen)
        if not torch.is_grad_enabled():  # another thread, or a model that enables autograd itself, built a graph
            logits = logits.detach()
        if images.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
            raise NoGradientError(NO_GRADIENT)
        doubt = doubt_of(logits)
        self._compare(logits, doubt)
        rows = self._rows.repeat(len(images) // max(1, len(self._rows)))
        self.forwards.index_add_(0, rows, torch.ones_like(rows))
        self.add_doubt(doubt)
        if logits.requires_grad:
            if in_float16(seen) or in_float16(logits) or (guard is not None and guard.float16):
                logits = self._scaled(logits, scaling)
            logits.register_hook(lambda _: self._passed(rows))  # type: ignore[no-untyped-call]
        return logits

    @property
    def searches(self) -> bool:
        """True if forwards run in the precision of a search, so that only :meth:`verdict` may judge its results."""
        guard = self._answers.guard
        return guard is not None and guard.searching is not None

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
        rows = positions(doubtful)
        if not len(rows):
            return found
        here = on_device(rows, images.device)
        return found.index_copy(0, here, judge(self.select(rows).verdict(images[here]), here))

    def _scaled(self, logits: Tensor, scaling: Scaling) -> Tensor:
        return scaling.leaving([logits])[0]

    def require(self, highest: int, unknown: _Unknown) -> None:
        """Refuse a model without class ``highest``, now or at its first answer.

        Args:
            highest: A class.
            unknown: Function from the number of the model's classes to the message.

        Raises:
            AttackError: The model has answered with fewer classes.
        """
        self._answers.wanted.append((highest, unknown))
        if self._answers.kind is not None:
            self._refuse_few(self._answers.kind[0])

    def _refuse_few(self, classes: int) -> None:
        for highest, unknown in self._answers.wanted:
            if highest >= classes:
                raise AttackError(unknown(classes))

    def _compare(self, logits: Tensor, doubt: Tensor) -> None:
        """Look at the first answer, and refuse others of another number of classes or dtype, without a wait."""
        kind = (logits.shape[1], logits.dtype)
        if self._answers.kind is None and self._answers.wanted:
            check_first(read(doubt)[0], logits.shape[1])
            self._refuse_few(logits.shape[1])
        if self._answers.kind not in (None, kind):
            classes, dtype = self._answers.kind or kind
            raise AttackError(
                f"the model returned {logits.shape[1]} classes in {logits.dtype} after {classes} classes in {dtype}: "
                "an attack needs a model that answers every forward alike; look for a state that it keeps."
            )
        self._answers.kind = kind

    def _passed(self, rows: Tensor) -> None:
        self.backwards.index_add_(0, rows, torch.ones_like(rows))

    def aims_of(self, attack: object) -> Aims | None:
        """Return the attack's own targets for these images; None if they were not made at the entry."""
        if self._answers.aims is None or self._answers.aims[0] is not attack:
            return None
        aims = self._answers.aims[1]
        if len(self._rows) == len(aims.aimed):
            return aims
        here = on_device(self._rows, aims.targets.device)
        return aims._replace(targets=aims.targets[here], aimed=aims.aimed[self._rows])

    def add_doubt(self, value: Tensor) -> None:
        """Add a value of which only it matters whether it is finite, for the look at the end."""
        before = self._answers.doubt
        # Zero times infinity is NaN.
        self._answers.doubt = 0 * value if before is None else before.add(value, alpha=0)

    def add_slopes(self, slopes: Tensor) -> None:
        """Add the sum of some gradients, or another value that is not finite if any is not, for the look at the end."""
        before = self._answers.slopes
        self._answers.slopes = slopes if before is None else before + slopes

    def doubts(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return two values on ``device`` that :meth:`refuse_non_finite` needs; does not wait for it."""
        nothing = torch.zeros((), device=device)
        slopes, doubt = self._answers.slopes, self._answers.doubt
        return nothing if slopes is None else slopes, nothing if doubt is None else doubt

    @staticmethod
    def refuse_non_finite(slopes: Tensor, doubt: Tensor) -> None:
        """Refuse gradients or logits that were not finite, by the values of :meth:`doubts`, which were read.

        Raises:
            NonFiniteGradientError: Some gradient was not finite.
            NonFiniteError: Some logits were not.
        """
        refuse_non_finite(slopes)
        if not math.isfinite(float(doubt)):
            raise NonFiniteError(
                "the attack met logits that are not finite: the model overflows or divides by zero on some perturbed "
                "images; run it in float32 and look for non-finite weights."
            )

    def select(self, rows: Tensor) -> Victim:
        """Return the victim for the images at ``rows``, indices on the CPU, with the same counters."""
        part = Victim(self.model, 0)
        part.share(self)
        part._rows = self._rows[rows.cpu()]
        return part

    def share(self, victim: Victim) -> None:
        """Take over the images and counters of ``victim``; both then count together."""
        self.forwards, self.backwards, self._dtype = victim.forwards, victim.backwards, victim._dtype
        self._rows, self._answers = victim._rows, victim._answers
