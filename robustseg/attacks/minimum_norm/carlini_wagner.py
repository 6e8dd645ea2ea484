"""Carlini and Wagner's attack: Adam on the margins of the logits, for the smallest change or within a ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks.base import AttackStep, OnStep, shown_logits
from robustseg.attacks.gradients import LEAVE_EVERY, input_gradient, logits_only
from robustseg.attacks.losses.margin import true_and_runner_up
from robustseg.attacks.minimum_norm.base import MinimumNormAttack, Nearest
from robustseg.attacks.minimum_norm.coordinates import Adam, BallChart, Chart, TanhChart
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.scaling import leaf
from robustseg.attacks.threat import Norm, per_image
from robustseg.attacks.victim import Victim
from robustseg.attacks.working import Batch
from robustseg.devices import positions
from robustseg.types import parse_fraction

_FACTOR = 10.0
"""Factor of c from run to run while it is not bounded from both sides."""


class CW(MinimumNormAttack):
    """Margins of the logits, minimised by Adam (Carlini & Wagner, IEEE S&P 2017).

    The margin loss of an image is the paper's f₆ summed over the valid pixels:
    f(x') = Σ max(u_y − max_{k≠y} u_k, −κ), with the difference the other way round if targeted. A pixel counts as
    fooled where the difference is below −κ.

    **l2**, the paper's attack (Sec. VI-A): minimise ‖x' − x‖₂² + c·f(x') over w with x' = ½·(tanh(w) + 1). Each of
    ``search_steps`` runs starts from the image. If some iterate of a run was fooled enough, the next run has a smaller
    c, otherwise a larger one. The nearest fooled iterate of all runs is the result; ``eps`` projects it into the ball.
    Images that are fooled from the start leave after the first gradient. c is the same for all pixels: if ``success``
    is far below 1, the pixels that need not be fooled are pushed as far as those that must be.

    **linf** needs ``eps``: the form that segmentation papers report under ε = 8/255. f alone is minimised over
    x' in [x − ε, x + ε] ∩ [0, 1], each step of Adam projected (one of the ways in the paper's Sec. V-B; tanh would
    hardly move a pixel that starts at a bound). There is one run. For each image it ends at the first iterate that is
    fooled enough; otherwise the result is the iterate with most fooled pixels. ``success=1`` thus searches for the
    worst case in the ball. This is not the paper's own L∞ form, which lowers a threshold on |δ| from run to run to
    find the smallest ε.

    The papers on segmentation do not publish their settings. Ours are Adam with β = (0.9, 0.999) and a step of 0.01,
    which is the paper's in tanh space and the SegPGD paper's α in pixel units; 200 steps; and six runs from c = 0.001,
    by factors of ten until c is bounded from both sides, then by geometric means, since only the magnitude of c
    matters. The paper's code takes arithmetic means, 9 runs and 10 000 steps: more steps still find smaller
    perturbations. [0, 1] covers 99 % of the range of tanh, so that pixels at 0 and 1 can move (99.9999 % in the
    paper's code, where they hardly move), and w stays within it; the first iterate equals the image exactly. The
    paper's code also ends a run whose objective stagnates; here every run takes all its steps.

    Costs ``steps`` input gradients and one more forward in each run.

    Args:
        norm: ``"l2"`` or ``"linf"``.
        steps: T ≥ 1 of each run.
        step_size: Step of Adam: in tanh space (l2), or in units of the [0, 1] pixel range (linf).
        search_steps: Runs with different c ≥ 1 (l2 only).
        initial_c: c > 0 of the first run (l2 only).
        confidence: κ ≥ 0, in units of the logits.
        **options: Arguments of :class:`~robustseg.attacks.MinimumNormAttack`; ``eps`` may be None under l2 only.

    Raises:
        ValueError: linf without ``eps``, an unknown norm, or a setting outside of the range given above.
    """

    norms = ("l2", "linf")

    def __init__(
        self,
        *,
        norm: Norm = "l2",
        steps: int = 200,
        step_size: float | str = 0.01,
        search_steps: int = 6,
        initial_c: float = 0.001,
        confidence: float = 0.0,
        **options: Any,
    ):
        super().__init__(norm=norm, **options)
        if norm == "linf" and self.threat is None:
            raise ValueError("eps = None: under linf CW searches a given ball; give eps, 8/255 for example, or use l2.")
        if steps < 1:
            raise ValueError(f"steps = {steps}: an attack takes at least one step.")
        if search_steps < 1:
            raise ValueError(f"search_steps = {search_steps}: there is at least one run.")
        if not 0 < initial_c < math.inf:
            raise ValueError(f"initial_c = {initial_c}: the margins need a positive weight, 0.001 for example.")
        if not 0 <= confidence < math.inf:
            raise ValueError(f"confidence = {confidence}: kappa is 0 or more; 0 asks for a changed prediction.")
        self.step_size: Fraction = parse_fraction(step_size, "step_size")
        if self.step_size <= 0:
            raise ValueError(f"step_size = {step_size} moves nothing: it must be positive, 0.01 for example.")
        self.steps = steps
        self.search_steps = search_steps
        self.initial_c = initial_c
        self.confidence = confidence

    def search(  # noqa: D102
        self,
        victim: Victim,
        images: Tensor,
        targets: Tensor,
        noise: NoiseSource,
        on_step: OnStep | None,
        nearest: Nearest,
    ) -> None:
        rows, chart = torch.arange(len(images), device=images.device), self._chart(images)
        batch = _Batch(victim, targets, rows, images, chart, Adam(chart.start))
        weights = _Weights(len(images), self.initial_c, images.device)
        slopes = torch.zeros((), device=images.device)
        for run in range(1 if self.norm == "linf" else self.search_steps):
            batch, succeeded, slope = self._run(batch, weights.c, run, on_step, nearest)
            slopes = slopes + slope
            if not len(batch.rows):
                break
            weights.update(succeeded)
        victim.add_slopes(slopes)

    def _chart(self, images: Tensor) -> Chart:
        if self.norm == "l2":
            return TanhChart(images)
        assert self.threat is not None
        return BallChart(images, self.threat)

    def _run(
        self, batch: _Batch, c: Tensor, run: int, on_step: OnStep | None, nearest: Nearest
    ) -> tuple[_Batch, Tensor, Tensor]:
        """Run Adam once from the images.

        Returns:
            The images that are not finished; a mask over the images of the call, True if fooled enough in this run;
            and the sum of all gradients.
        """
        succeeded = torch.zeros(len(c), dtype=torch.bool, device=c.device)
        slope = torch.zeros((), device=c.device)
        batch.adam = Adam(batch.chart.start)
        for step in range(self.steps):
            adam = batch.adam
            seen = batch.chart.images(adam.at).to(batch.images.dtype)
            point = leaf(seen)
            logits = batch.victim(point)
            loss, enough = self._judge(logits, seen, batch, nearest)
            succeeded = _mark(succeeded, batch.rows, enough)
            going = self._going(batch, step, run, nearest)
            shown = shown_logits(on_step, logits)
            del logits
            grad = input_gradient(loss.sum(), point).to(adam.at.dtype)
            slope = slope + grad.sum(dtype=torch.float32)
            grad, value = self._objective(grad, loss.detach(), seen, batch, c)
            if on_step is not None and shown is not None:
                on_step(AttackStep(step + 1, self.steps, run, seen, shown, batch.targets, value, batch.rows))
            moved = batch.chart.within(adam.step(grad * batch.chart.slope(adam.at), float(self.step_size)))
            # Within a ball a fooled image keeps its iterate: the result must not depend on the step at which it leaves.
            stays = enough & (self.norm == "linf")
            adam.at = torch.where(per_image(stays, moved), adam.at, moved)
            if going is not None:
                batch = batch.select(going)
                if not len(going):
                    return batch, succeeded, slope
        last = batch.chart.images(batch.adam.at).to(batch.images.dtype)
        _, enough = self._judge(logits_only(batch.victim, last), last, batch, nearest)
        return batch, _mark(succeeded, batch.rows, enough), slope

    def _judge(self, logits: Tensor, images_adv: Tensor, batch: _Batch, nearest: Nearest) -> tuple[Tensor, Tensor]:
        """Return f of each image and a mask of images fooled enough, B values each; offer the iterate as a result."""
        decreased, valid = self._margins(logits, batch.targets), batch.targets >= 0
        hits = self._hits(decreased) & valid
        if batch.victim.searches:
            hits = nearest.confirmed(images_adv, hits, self._decide, batch.rows)
        enough = nearest.offer_hits(images_adv, hits, batch.rows)
        pixels = torch.where(valid, decreased.clamp_min(-self.confidence), torch.zeros_like(decreased))
        return pixels.flatten(1).sum(1), enough

    def _margins(self, logits: Tensor, targets: Tensor) -> Tensor:
        # In float32 at least: the sum over an image overflows float16.
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        true, runner_up = true_and_runner_up(wide, targets)
        return runner_up - true if self.targeted else true - runner_up

    def _decide(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._hits(self._margins(logits, targets)) & (targets >= 0)

    def _hits(self, decreased: Tensor) -> Tensor:
        """Find the pixels that show the target by κ, if targeted; otherwise those that are not yet wrong by κ."""
        return decreased <= -self.confidence if self.targeted else decreased >= -self.confidence

    def _objective(
        self, grad: Tensor, loss: Tensor, images_adv: Tensor, batch: _Batch, c: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradient of Adam's objective with respect to the image, and its B values, from those of f."""
        if self.norm == "linf":
            return grad, loss
        weight = c[batch.rows].to(grad.dtype)
        delta = images_adv.to(grad.dtype) - batch.images
        return 2 * delta + per_image(weight, grad) * grad, delta.square().flatten(1).sum(1) + weight * loss

    def _going(self, batch: _Batch, step: int, run: int, nearest: Nearest) -> Tensor | None:
        """Return the positions of unfinished images, or None at steps without a check; a check waits for the device."""
        first = step == run == 0
        if not first and (self.norm == "l2" or step % LEAVE_EVERY):
            return None
        distance = nearest.distance[batch.rows]
        finished = distance == 0 if self.norm == "l2" else distance.isfinite()
        going = positions(~finished)
        return None if len(going) == len(finished) else going

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            **super().describe(),
            "steps": self.steps,
            "step_size": str(self.step_size),
            "search_steps": self.search_steps,
            "initial_c": self.initial_c,
            "confidence": self.confidence,
        }


@dataclass
class _Batch(Batch):
    chart: Chart
    adam: Adam
    """State of Adam, with the coordinates of the images in the chart."""


def _mark(marks: Tensor, rows: Tensor, more: Tensor) -> Tensor:
    """Return ``marks`` of all images with those at ``rows`` set where ``more``."""
    return marks.index_copy(0, rows, marks[rows] | more)


class _Weights:
    """Binary search over c, with one weight per image of the call."""

    def __init__(self, count: int, initial: float, device: torch.device):
        self.c = torch.full((count,), initial, dtype=torch.float64, device=device)
        self._too_small = torch.zeros_like(self.c)
        self._large_enough = torch.full_like(self.c, torch.inf)

    def update(self, succeeded: Tensor) -> None:
        """Set the weights of the next run from a mask of the images that this run fooled, B bool."""
        self._too_small = torch.where(succeeded, self._too_small, self.c)
        self._large_enough = torch.where(succeeded, self.c, self._large_enough)
        enclosed = (self._too_small * self._large_enough).sqrt()
        upwards = torch.where(self._large_enough.isinf(), self.c * _FACTOR, enclosed)
        self.c = torch.where(self._too_small == 0, self.c / _FACTOR, upwards)
