"""Loop of the minimum-norm attacks that start at the clean image and take one gradient per step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks.base import AttackStep, OnStep, shown_logits
from robustseg.attacks.gradients import input_gradient, logits_only
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.minimum_norm.base import MinimumNormAttack, Nearest
from robustseg.attacks.minimum_norm.constraints import DropLargest, check_drop_largest, kept_constraints
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.scaling import leaf
from robustseg.attacks.threat import per_image
from robustseg.attacks.victim import Victim
from robustseg.types import parse_fraction


class Search(ABC):
    """State of an attack on one batch between its steps; all of it is per image."""

    gain: Tensor
    """B values of the order of the largest pixel weight in the loss. The loss is divided by them before the backward
    pass, so that weights of 1e-6 or of 1e6 neither vanish nor overflow in half precision."""

    @abstractmethod
    def loss(self, logits: Tensor, enough: Tensor, step: int) -> Tensor:
        """Compute the loss that the next move decreases, B values with a graph to ``logits``; set :attr:`gain`.

        Args:
            logits: B×C×H×W, the model's output for the iterate.
            enough: B bool, the iterate is fooled enough.
            step: 0..steps−1.
        """

    @abstractmethod
    def move(self, delta: Tensor, grad: Tensor, step: int) -> Tensor:
        """Return the next perturbation, with which the images stay in [0, 1].

        Args:
            delta: B×3×H×W, float32 at least.
            grad: Gradient of the loss, of the same shape and dtype.
            step: 0..steps−1.
        """


class DescentAttack(MinimumNormAttack):
    """A minimum-norm attack with one gradient per step; :meth:`begin` returns the object that makes the steps.

    Costs ``steps`` forwards and input gradients, and one more forward, which lets the last iterate become the result;
    public code never evaluates its last iterate. The attack is deterministic. The perturbation is kept in float32 at
    least; the model and the result have the dtype of the images.

    Args:
        steps: T ≥ 1.
        step_size: Length of the first steps, in units of the [0, 1] pixel range.
        drop_largest: Constraints that need not be fulfilled, see
            :func:`~robustseg.attacks.minimum_norm.constraints.kept_constraints`.
        **options: Arguments of :class:`~robustseg.attacks.MinimumNormAttack`.

    Raises:
        ValueError: An error of :class:`~robustseg.attacks.MinimumNormAttack`, ``steps`` below 1, ``step_size`` not
            positive, unknown ``drop_largest``.
    """

    def __init__(
        self,
        *,
        steps: int = 500,
        step_size: float | str = 0.01,
        drop_largest: DropLargest = "never",
        **options: Any,
    ):
        super().__init__(**options)
        if steps < 1:
            raise ValueError(f"steps = {steps}: an attack takes at least one step.")
        self.step_size = parse_fraction(step_size, "step_size")
        if self.step_size <= 0:
            raise ValueError(f"step_size = {step_size} moves nothing: it must be positive, 0.001 for example.")
        check_drop_largest(drop_largest)
        self.steps = steps
        self.drop_largest: DropLargest = drop_largest

    @abstractmethod
    def begin(self, clean: Tensor, targets: Tensor) -> Search:
        """Return the state of a new search.

        Args:
            clean: B×3×H×W, the images in float32 at least.
            targets: B×H×W, :data:`~robustseg.attacks.losses.base.IGNORED` where ignored.
        """

    def search(  # noqa: D102
        self,
        victim: Victim,
        images: Tensor,
        targets: Tensor,
        noise: NoiseSource,
        on_step: OnStep | None,
        nearest: Nearest,
    ) -> None:
        clean = images.to(torch.promote_types(images.dtype, torch.float32))
        search = self.begin(clean, targets)
        delta = torch.zeros_like(clean)
        slopes = torch.zeros((), device=images.device)
        rows = torch.arange(len(images), device=images.device)
        for step in range(self.steps):
            seen = _perturbed(clean, delta, images)
            point = leaf(seen)
            logits = victim(point)
            enough = nearest.offer(seen, logits.detach())
            loss = search.loss(logits, enough, step)
            shown = shown_logits(on_step, logits)
            del logits
            grad = input_gradient((loss / search.gain).sum(), point).to(clean.dtype)
            grad = grad * per_image(search.gain, grad).to(grad.dtype)
            slopes = slopes + grad.sum(dtype=torch.float32)
            if on_step is not None and shown is not None:
                on_step(AttackStep(step + 1, self.steps, 0, seen, shown, targets, loss.detach(), rows))
            del shown, loss
            delta = search.move(delta, grad, step)
        victim.add_slopes(slopes)
        last = _perturbed(clean, delta, images)
        nearest.offer(last, logits_only(victim, last))

    def kept(self, constraints: Tensor, targets: Tensor, step: int) -> Tensor:
        """Return a mask of the constraints that count at ``step``, B×H×W bool."""
        valid = targets != IGNORED
        # A count instead of a share: 0.01 of 100 pixels is one, although (1 − 0.99) · 100 is not exact in binary.
        spare = (valid.flatten(1).sum(1) * (1 - self.success) + 1e-6).long()
        progress = step / max(1, self.steps - 1)
        return kept_constraints(constraints.detach(), valid, spare, self.drop_largest, progress, 1 - self.success)

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            **super().describe(),
            "steps": self.steps,
            "step_size": str(self.step_size),
            "drop_largest": self.drop_largest,
        }


def _perturbed(clean: Tensor, delta: Tensor, images: Tensor) -> Tensor:
    """Return the perturbed images in the dtype of ``images``, clipped, since rounding may leave the box."""
    return (clean + delta).clamp(0, 1).to(images.dtype)
