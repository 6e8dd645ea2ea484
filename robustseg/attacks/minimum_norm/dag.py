"""Dense Adversary Generation: normalised gradient steps on the pixels that are not fooled yet."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from robustseg.attacks.base import Attack, AttackStep, OnStep, shown_logits
from robustseg.attacks.gradients import LEAVE_EVERY, input_gradient
from robustseg.attacks.losses.base import IGNORED, correct_pixels
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.scaling import leaf
from robustseg.attacks.threat import AllowedSet, Norm, ThreatModel, per_image
from robustseg.attacks.victim import Victim
from robustseg.attacks.working import Working
from robustseg.devices import positions
from robustseg.types import parse_fraction

Aim = Literal["random", "runner-up"]


class DAG(Attack):
    """Dense Adversary Generation (Xie et al., ICCV 2017, Algorithm 1).

    At each step T is the set of valid pixels that are not fooled yet: those predicted as the true class, or, if
    targeted, those that do not show the target. With r = ∇ Σ_T (u_{l'} − u_y) each image takes the step γ·r/‖r‖∞ and is
    clipped to [0, 1] and, if there is an ε, projected into the ball. u are the logits, y the true class and l' the
    class aimed at:

    - ``"random"``: a wrong class for each pixel, drawn once per call, as in the paper;
    - ``"runner-up"``: the largest logit among the wrong classes, at each step;
    - targeted: the target. The true class is then unknown, and y is the class that is predicted at this step.

    An image stops at its first iterate with the share ``success`` of the valid pixels fooled, and this is its result:
    later iterates would be farther away. If no iterate reaches this share, the result is the iterate with most fooled
    pixels, the earliest of equals, the clean image included. Finished images leave the working batch at every tenth
    step. Costs at most ``steps`` gradients, and one more forward, which counts the last iterate's pixels.

    This is not a minimum-norm attack: it does not search for a smaller perturbation than the one found, and with an ε
    all iterates lie in the ball, not only the result. The paper does not clip and stops when T is empty. One public
    version (adversarial-library) aims at the runner-up, lets the perturbation itself grow outside of the box, and
    returns the clean image if ``success`` is not reached.

    Args:
        eps: Radius of the ball, in units of the [0, 1] pixel range, or None for a perturbation of any size.
        step_size: γ, the largest change of any channel in one step, in units of the [0, 1] pixel range; 0.5/255 in
            the paper.
        steps: Largest number of steps; 200 in the paper for segmentation.
        success: Share of an image's valid pixels in (0, 1] at which it counts as fooled; 1 for the paper's rule.
        aim: ``"random"`` or ``"runner-up"``; of no effect if targeted.
        norm: Norm of the ball; of no effect without ``eps``.
        **options: Arguments of :class:`~robustseg.attacks.Attack`.

    Raises:
        ValueError: ``step_size`` is not positive, ``steps`` below 1, ``success`` outside of (0, 1], unknown ``aim`` or
            ``norm``, or a wrong ``eps``.
    """

    def __init__(
        self,
        *,
        eps: float | str | None = None,
        step_size: float | str = "1/510",
        steps: int = 200,
        success: float = 0.99,
        aim: Aim = "random",
        norm: Norm = "linf",
        **options: Any,
    ):
        super().__init__(**options)
        ball = ThreatModel(0 if eps is None else eps, norm)
        self.threat = None if eps is None else ball
        self.step_size: Fraction = parse_fraction(step_size, "step_size")
        if self.step_size <= 0:
            raise ValueError(f"step_size = {step_size} moves nothing: it must be positive, 1/510 for example.")
        if steps < 1:
            raise ValueError(f"steps = {steps}: an attack takes at least one step.")
        if not 0 < success <= 1:
            raise ValueError(f"success = {success} is outside of (0, 1]: 0.99 asks for 99 % of the valid pixels.")
        if aim not in ("random", "runner-up"):
            raise ValueError(f"aim = {aim!r}: use random or runner-up.")
        self.steps = steps
        self.success = success
        self.aim: Aim = aim
        self.norm: Norm = norm

    def perturb(  # noqa: D102
        self, victim: Victim, images: Tensor, targets: Tensor, noise: NoiseSource, on_step: OnStep | None
    ) -> Tensor:
        if self.threat is not None and self.threat.eps == 0:
            return images
        allowed = None if self.threat is None else self.threat.around(images)
        state = self._begin(victim, images, targets, allowed)
        images_adv = images
        slope = torch.zeros((), device=images.device)
        for step in range(self.steps):
            if step and step % LEAVE_EVERY == 0:
                going = positions(~state.finished)
                if len(going) < len(state.rows):
                    images_adv = images_adv.index_copy(0, state.rows, state.best)
                    state = state.select(going)
                if not len(going):
                    break
            slope = slope + self._step(state, step, noise, on_step)
        else:
            with torch.no_grad():
                point = state.point.to(images.dtype)
                logits = state.victim(point)
                self._rank(state, point, correct_pixels(logits, state.targets))
        victim.add_slopes(slope)
        images_adv = images_adv.index_copy(0, state.rows, state.best)
        return images_adv if allowed is None else allowed.finish(images_adv)

    def _begin(self, victim: Victim, images: Tensor, targets: Tensor, allowed: AllowedSet | None) -> _State:
        count = (targets != IGNORED).flatten(1).sum(1)
        return _State(
            victim=victim,
            targets=targets,
            allowed=allowed,
            rows=torch.arange(len(images), device=images.device),
            # Half precision would round the steps away.
            point=images.to(torch.promote_types(images.dtype, torch.float32)),
            best=images,
            most=torch.full_like(count, -1),
            count=count,
            # 0.99 of 100 pixels are 99, although 0.99 · 100 is not exact in binary.
            enough=torch.ceil(count.double() * self.success - 1e-6).long(),
            finished=torch.zeros_like(count, dtype=torch.bool),
        )

    def _step(self, state: _State, step: int, noise: NoiseSource, on_step: OnStep | None) -> Tensor:
        """Count the fooled pixels and move the images that are not finished; return the sum of the gradient."""
        seen = state.point.to(state.best.dtype)
        point = leaf(seen)
        logits = state.victim(point)
        if step == 0 and self.aim == "random" and not self.targeted:
            state.wrong = _wrong_classes(state.targets, logits.shape[1], noise)
        hits = correct_pixels(logits.detach(), state.targets)
        self._rank(state, seen, hits)
        active = ~hits & (state.targets != IGNORED) if self.targeted else hits
        loss = self._gap(logits, state, active)
        shown = shown_logits(on_step, logits)
        del logits
        grad = input_gradient(loss.sum(), point)
        if on_step is not None and shown is not None:
            on_step(AttackStep(step + 1, self.steps, 0, seen, shown, state.targets, loss.detach(), state.rows))
        largest = per_image(grad.abs().flatten(1).amax(1), grad).clamp_min(torch.finfo(grad.dtype).tiny)
        moved = state.point + grad / largest * float(self.step_size)
        moved = moved.clamp(0, 1) if state.allowed is None else state.allowed.project(moved)
        state.point = torch.where(per_image(state.finished, moved), state.point, moved)
        return grad.sum(dtype=torch.float32)

    def _rank(self, state: _State, images_adv: Tensor, hits: Tensor) -> None:
        """Keep the iterate of each unfinished image if it fools more pixels than any before."""
        fooled = self._fooled(hits, state.count)
        ends = (fooled >= state.enough) & ~state.finished

        def judge(logits: Tensor, rows: Tensor) -> Tensor:
            return self._fooled(correct_pixels(logits, state.targets[rows]), state.count[rows])

        judged = state.victim.confirmed(fooled, ends, images_adv, judge)
        # By the word of a search, an iterate before may have fooled as many pixels as the one that ends it.
        better = ((judged > state.most) | (ends & (judged >= state.enough))) & ~state.finished
        fooled = judged
        state.most = torch.where(better, fooled, state.most)
        state.best = torch.where(per_image(better, images_adv), images_adv, state.best)
        state.finished = state.finished | (fooled >= state.enough)

    def _fooled(self, hits: Tensor, count: Tensor) -> Tensor:
        shown = hits.flatten(1).sum(1)
        return shown if self.targeted else count - shown

    def _gap(self, logits: Tensor, state: _State, active: Tensor) -> Tensor:
        """Compute Σ_T (u_{l'} − u_y) of each image: B values."""
        given = state.targets.clamp_min(0).unsqueeze(1)
        if state.wrong is None:
            # The largest logit of another class than the given one.
            top = logits.detach().topk(2, 1).indices
            other = torch.where(top[:, :1] == given, top[:, 1:], top[:, :1])
        else:
            other = state.wrong.unsqueeze(1)
        aimed, left = (given, other) if self.targeted else (other, given)
        wide = torch.promote_types(logits.dtype, torch.float32)
        gap = logits.gather(1, aimed).to(wide) - logits.gather(1, left).to(wide)
        return torch.where(active, gap.squeeze(1), 0).flatten(1).sum(1)

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            "attack": type(self).__name__,
            "eps": None if self.threat is None else str(self.threat.eps),
            "norm": self.norm,
            "step_size": str(self.step_size),
            "steps": self.steps,
            "success": self.success,
            "aim": self.aim,
            "targeted": self.targeted,
            "seed": self.seed,
        }


@dataclass
class _State(Working):
    """The images that are still being attacked, with their results so far."""

    allowed: AllowedSet | None
    point: Tensor
    """The iterate, B×3×H×W, at least float32."""
    best: Tensor
    """B×3×H×W, the results so far, in the images' dtype."""
    most: Tensor
    """B counts of fooled pixels in ``best``; −1 before the first forward."""
    count: Tensor
    """B counts of valid pixels."""
    enough: Tensor
    """B counts of pixels that must be fooled."""
    finished: Tensor
    """B bool: enough pixels are fooled."""
    wrong: Tensor | None = None
    """B×H×W classes aimed at, with ``aim="random"``; otherwise None."""


def _wrong_classes(targets: Tensor, classes: int, noise: NoiseSource) -> Tensor:
    """Draw for each pixel one of the other classes, all equally likely; B×H×W."""
    drawn = noise.uniform(torch.empty_like(targets, dtype=torch.float32)) * (classes - 1)
    wrong = drawn.long()
    return wrong + (wrong >= targets)
