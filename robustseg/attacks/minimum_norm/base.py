"""Base of the minimum-norm attacks: the criterion for fooled images, and the nearest fooled images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustseg.attacks.base import Attack, OnStep
from robustseg.attacks.losses.base import IGNORED, correct_pixels
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.threat import Norm, ThreatModel, per_image
from robustseg.attacks.victim import Victim

Decision = Callable[[Tensor, Tensor], Tensor]
"""Function of logits and targets that returns the pixels that show their target, B×H×W bool."""


class MinimumNormAttack(Attack):
    """A search for the smallest perturbation that fools a given share of an image's valid pixels.

    Without ``eps`` the perturbation may have any size; for an image that is never fooled the result is the iterate
    with most fooled pixels. With ``eps`` the result is projected into the ball.

    Args:
        norm: Norm of the perturbation and of the ball.
        success: Share of the valid pixels that must be misclassified (must show the target, if targeted).
        eps: Radius of the ball, or None.
        **options: Arguments of :class:`~robustseg.attacks.Attack`.

    Raises:
        ValueError: A norm that the attack does not support, ``success`` outside of (0, 1], or a wrong ``eps``.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    """Norms that the attack supports."""

    def __init__(
        self,
        *,
        norm: Norm,
        success: float = 0.99,
        eps: float | str | None = None,
        **options: Any,
    ):
        super().__init__(**options)
        if norm not in self.norms:
            raise ValueError(f"norm = {norm!r}: {type(self).__name__} is made for {' and '.join(self.norms)}.")
        if not 0 < success <= 1:
            raise ValueError(f"success = {success} is outside of (0, 1]: 0.99 asks for 99 % of the valid pixels.")
        self.norm: Norm = norm
        self.success = success
        self.threat = None if eps is None else ThreatModel(eps, norm)

    def perturb(  # noqa: D102
        self, victim: Victim, images: Tensor, targets: Tensor, noise: NoiseSource, on_step: OnStep | None
    ) -> Tensor:
        if self.threat is not None and self.threat.eps == 0:
            return images
        nearest = Nearest(images, targets, self.norm, self.success, self.targeted, victim)
        self.search(victim, images, targets, noise, on_step, nearest)
        if self.threat is None:
            return nearest.images_adv
        allowed = self.threat.around(images)
        return allowed.finish(allowed.project(nearest.images_adv))

    @abstractmethod
    def search(
        self,
        victim: Victim,
        images: Tensor,
        targets: Tensor,
        noise: NoiseSource,
        on_step: OnStep | None,
        nearest: Nearest,
    ) -> None:
        """Offer iterates, in [0, 1] and the dtype of ``images``, to ``nearest``, which keeps the result.

        Arguments as for :meth:`~robustseg.attacks.Attack.perturb`. The clean images must be offered first.
        """

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            "attack": type(self).__name__,
            "eps": None if self.threat is None else str(self.threat.eps),
            "norm": self.norm,
            "success": self.success,
            "targeted": self.targeted,
            "seed": self.seed,
        }


class Nearest:
    """The nearest fooled iterate of each image, or the one with most fooled pixels while none is fooled enough.

    No method waits for the device, except in a search in low precision: what seems fooled enough is judged first.

    Args:
        images: B×3×H×W, the clean images.
        targets: B×H×W, :data:`~robustseg.attacks.losses.base.IGNORED` where ignored.
        norm: Norm of the distance.
        success: Share of the valid pixels that must be fooled.
        targeted: ``targets`` are the attacker's labels.
        victim: The model, with these images, that judges; None if all logits are verdicts.
    """

    def __init__(
        self,
        images: Tensor,
        targets: Tensor,
        norm: Norm,
        success: float,
        targeted: bool,
        victim: Victim | None = None,
    ):
        self._victim = victim
        self._images = images
        self._targets = targets
        self._norm = norm
        self._targeted = targeted
        valid = (targets != IGNORED).flatten(1).sum(1)
        self._valid = valid
        # A count instead of a share: 0.99 of 100 pixels are 99, although 0.99 · 100 is not exact in binary.
        self._enough = torch.ceil(valid.double() * success - 1e-6).long()
        self.images_adv = images.clone()
        """B×3×H×W, the result so far."""
        self.distance = torch.full((len(images),), float("inf"), device=images.device, dtype=torch.float64)
        """B values: distance of the nearest fooled iterate, infinite while there is none."""
        self._most = torch.full_like(valid, -1)

    def offer(self, images_adv: Tensor, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """Compare one iterate per image with the kept one.

        Args:
            images_adv: The iterates within [0, 1], of the images at ``rows``.
            logits: B×C×H×W, the model's output for them.
            rows: Indices of these images, ascending; all by default.

        Returns:
            B bool: the iterate is fooled enough.
        """
        hits = self.confirmed(images_adv, correct_pixels(logits, _part(self._targets, rows)), correct_pixels, rows)
        return self.offer_hits(images_adv, hits, rows)

    def confirmed(self, images_adv: Tensor, hits: Tensor, decide: Decision, rows: Tensor | None = None) -> Tensor:
        """Return the decision for each pixel, by a verdict for iterates that seem nearer and fooled enough.

        Args:
            images_adv: See :meth:`offer`.
            hits: B×H×W bool, decided by the logits of the search.
            decide: Function of logits and targets that decides.
            rows: See :meth:`offer`.
        """
        if self._victim is None or not self._victim.searches:
            return hits
        victim = self._victim if rows is None else self._victim.select(rows)
        targets = _part(self._targets, rows)
        nearer = self._compare(images_adv, hits, rows)[1]
        return victim.confirmed(hits, nearer, images_adv.detach(), lambda logits, at: decide(logits, targets[at]))

    def offer_hits(self, images_adv: Tensor, hits: Tensor, rows: Tensor | None = None) -> Tensor:
        """Compare iterates as :meth:`offer` does, with the attack's own decision for each pixel.

        Args:
            images_adv: See :meth:`offer`.
            hits: B×H×W bool: pixels that show their target, False where ignored.
            rows: See :meth:`offer`.
        """
        enough, nearer, more, distance, fooled = self._compare(images_adv, hits, rows)
        before, most = _part(self.distance, rows), _part(self._most, rows)
        kept = torch.where(per_image(nearer | more, images_adv), images_adv.detach(), _part(self.images_adv, rows))
        self.distance = _put(self.distance, torch.where(nearer, distance, before), rows)
        self._most = _put(self._most, torch.maximum(most, fooled), rows)
        self.images_adv = _put(self.images_adv, kept, rows)
        return enough

    def _compare(
        self, images_adv: Tensor, hits: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return B values each: fooled enough, nearer and so, more fooled than all before, distance, pixels fooled."""
        count = hits.flatten(1).sum(1)
        fooled = count if self._targeted else _part(self._valid, rows) - count
        enough = fooled >= _part(self._enough, rows)
        before, most = _part(self.distance, rows), _part(self._most, rows)
        distance = lengths(images_adv.detach().double() - _part(self._images, rows).double(), self._norm)
        nearer = enough & (distance < before)
        # While no iterate is fooled enough, the one with most fooled pixels is kept.
        more = ~enough & before.isinf() & (fooled > most)
        return enough, nearer, more, distance, fooled


def _part(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None or len(rows) == len(values) else values[rows]


def _put(values: Tensor, part: Tensor, rows: Tensor | None) -> Tensor:
    return part if rows is None or len(rows) == len(values) else values.index_copy(0, rows, part)


def lengths(delta: Tensor, norm: Norm) -> Tensor:
    """Compute the size of each image's perturbation: B values."""
    flat = delta.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)
