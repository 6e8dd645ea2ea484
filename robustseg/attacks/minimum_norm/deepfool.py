"""DeepFool: at each iterate the shortest step across a boundary of the linearised model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks.base import AttackStep, OnStep, shown_logits
from robustseg.attacks.gradients import LEAVE_EVERY, input_gradient, logits_only
from robustseg.attacks.losses.base import correct_pixels
from robustseg.attacks.minimum_norm.base import MinimumNormAttack, Nearest
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.scaling import leaf
from robustseg.attacks.threat import AllowedSet, Norm, per_image
from robustseg.attacks.victim import Victim
from robustseg.attacks.working import Working
from robustseg.devices import positions

_LEAST = 1e-4
"""Smallest mean margin that a step assumes, in units of the logits."""


class DeepFool(MinimumNormAttack):
    """Shortest steps to the boundary of the linearised model (Moosavi-Dezfooli, Fawzi & Frossard, CVPR 2016).

    At an iterate, S is the set of valid pixels that are still predicted correctly. Candidate j takes at each pixel i
    of S the wrong class k_ij with the j-th largest logit there:

        f_j = Σ_S (u_{k_ij} − u_{y_i})    and    w_j = ∇_x f_j.

    The step takes the candidate with the smallest |f_j|/‖w_j‖₂ (‖w_j‖₁ for linf), and the image moves by
    (1 + overshoot)·r with

        r = |f|/‖w‖₂² · w    (l2, the paper's Algorithm 2)    or    r = |f|/‖w‖₁ · sign(w)    (linf, its Sec. 3.3),

    then it is clipped to [0, 1] and, with ``eps``, projected into the ball, so that each step starts from an allowed
    image. This is repeated until the image is fooled or for ``steps`` steps.

    With one valid pixel this is the paper's attack for classification. With several, r is the step that brings the
    **mean** margin of S to zero: dividing f and w by the number of pixels would not change it. About half of S crosses
    the boundary; the rest is the S of the next step. The paper has one label per image; the candidates for many labels
    are ours. On small trained networks 1, 3 and 10 candidates led to the same distances, so ``candidates=1``, each
    pixel's runner-up, gives the same result at a tenth of the cost. Candidates with a single class for all pixels led
    to larger distances in most cases, for linf up to 2.7 times.

    A mean margin below 1e-4 counts as 1e-4: otherwise an exact tie would give no step, and steps that the box cuts off
    would approach the boundary without crossing it (the paper's code adds 1e-4 to the distance).

    The paper accumulates the steps and scales their sum by 1 + overshoot, which is the same while nothing is clipped.
    Its code stops once the prediction differs from that on the clean image; here the labels decide.

    A step costs one forward and min(``candidates``, C − 1) input gradients; one more forward follows the last step.
    Fooled images do not move any more and leave the working batch after at most ten gradients.

    Args:
        norm: ``"l2"`` or ``"linf"``.
        steps: T ≥ 1; 50 in the paper's code.
        candidates: Number of wrong classes tried at each pixel in a step, ≥ 1; the paper tries all, its code the first
            nine.
        overshoot: η ≥ 0; 0.02 in the paper.
        **options: Arguments of :class:`~robustseg.attacks.MinimumNormAttack`; not ``targeted``.

    Raises:
        ValueError: An unknown norm, or a setting outside of the range given above.
    """

    norms = ("l2", "linf")

    def __init__(
        self,
        *,
        norm: Norm = "l2",
        steps: int = 50,
        candidates: int = 10,
        overshoot: float = 0.02,
        **options: Any,
    ):
        super().__init__(norm=norm, targeted=False, **options)
        if steps < 1:
            raise ValueError(f"steps = {steps}: an attack takes at least one step.")
        if candidates < 1:
            raise ValueError(f"candidates = {candidates}: a step looks at one wrong class of each pixel at least.")
        if not 0 <= overshoot < math.inf:
            raise ValueError(f"overshoot = {overshoot}: a step ends at the boundary (0) or beyond it (0.02).")
        self.steps = steps
        self.candidates = candidates
        self.overshoot = overshoot

    def search(  # noqa: D102
        self,
        victim: Victim,
        images: Tensor,
        targets: Tensor,
        noise: NoiseSource,
        on_step: OnStep | None,
        nearest: Nearest,
    ) -> None:
        rows = torch.arange(len(images), device=images.device)
        # In float32 at least: half precision would round small steps away.
        at = images.to(torch.promote_types(images.dtype, torch.float32))
        batch = _Iterates(victim, targets, rows, at, None if self.threat is None else self.threat.around(images))
        slopes = torch.zeros((), device=images.device)
        for step in range(self.steps):
            seen = batch.at.to(images.dtype)
            point = leaf(seen)
            logits = batch.victim(point)
            fooled = nearest.offer(seen, logits.detach(), batch.rows)
            looks = step % max(1, LEAVE_EVERY // min(self.candidates, max(1, logits.shape[1] - 1))) == 0
            going = positions(~fooled) if looks else None
            if going is not None and not len(going):
                victim.add_slopes(slopes)
                return
            shown = shown_logits(on_step, logits)
            delta, margin, slope = self._shortest(logits, point, batch.targets)
            del logits
            slopes = slopes + slope
            if on_step is not None and shown is not None:
                on_step(AttackStep(step + 1, self.steps, 0, seen, shown, batch.targets, margin, batch.rows))
            moved = (batch.at + (1 + self.overshoot) * delta.to(batch.at.dtype)).clamp(0, 1)
            if batch.allowed is not None:
                moved = batch.allowed.project(moved)
            batch.at = torch.where(per_image(fooled, moved), batch.at, moved)
            batch = batch if going is None else batch.select(going)
        last = batch.at.to(images.dtype)
        nearest.offer(last, logits_only(batch.victim, last), batch.rows)
        victim.add_slopes(slopes)

    def _shortest(self, logits: Tensor, point: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the shortest candidate step of each image, zero if there is none.

        Returns:
            The step, the mean margin of the pixels that are still correct to their runners-up (B values), and the sum
            of all gradients.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        own = targets.clamp_min(0).unsqueeze(1)
        with torch.no_grad():
            still = correct_pixels(logits, targets)
            count = still.flatten(1).sum(1)
            wrong = logits.scatter(1, own, -math.inf).topk(min(self.candidates, logits.shape[1] - 1), dim=1).indices
        shortest = torch.zeros(point.shape, dtype=logits.dtype, device=point.device)
        distance = torch.full((len(point),), math.inf, dtype=logits.dtype, device=point.device)
        margin, slope = torch.zeros_like(distance), torch.zeros((), device=point.device)
        true = logits.gather(1, own).squeeze(1)
        for rank in range(wrong.shape[1]):
            differences = (logits.gather(1, wrong[:, rank : rank + 1]).squeeze(1) - true) * still
            value = differences.flatten(1).sum(1)
            grad = input_gradient(value.sum(), point, retain_graph=rank + 1 < wrong.shape[1])
            slope = slope + grad.sum(dtype=torch.float32)
            size = -value.detach()
            if rank == 0:
                margin = size / count.clamp_min(1)
            # NaN if no pixel is correct, infinite if there is no slope: such steps are not taken.
            step, length = self._to_boundary(torch.maximum(size, _LEAST * count), grad)
            nearer = length < distance
            distance = torch.where(nearer, length, distance)
            shortest = torch.where(per_image(nearer, step), step, shortest)
        return shortest, margin, slope

    def _to_boundary(self, size: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the step that raises a linear function with this gradient by ``size``, and its length, B values."""
        if self.norm == "linf":
            length = size / grad.abs().flatten(1).sum(1)
            return per_image(length, grad) * grad.sign(), length
        steepness = grad.flatten(1).norm(dim=1)
        length = size / steepness
        return per_image(length / steepness, grad) * grad, length

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            **super().describe(),
            "steps": self.steps,
            "candidates": self.candidates,
            "overshoot": self.overshoot,
        }


@dataclass
class _Iterates(Working):
    at: Tensor
    """The iterates, B×3×H×W, at least float32."""
    allowed: AllowedSet | None
