"""Square Attack: random search without gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from robustseg.attacks.base import Attack, AttackStep, OnStep
from robustseg.attacks.gradients import LEAVE_EVERY
from robustseg.attacks.losses.base import IGNORED, correct_pixels, cross_entropy
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.threat import Norm, ThreatModel, per_image
from robustseg.attacks.victim import Victim
from robustseg.attacks.working import Working
from robustseg.devices import positions

Stripes = Literal["vertical", "horizontal"]
Objective = Literal["loss", "accuracy"]


_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Candidates, out of 10 000, after which the share of pixels in a square is halved."""


class Square(Attack):
    """Black-box random search with squares of ±ε (Andriushchenko et al., ECCV 2020, Algorithms 1 and 2, linf).

    The first query adds stripes of ±ε, one pixel wide, drawn for each channel. Each further query repaints a square of
    the kept image, at a random position, with x + ε or x − ε in each channel; the candidate is kept if the objective
    gets worse for the model. The side of the squares is √(p·H·W), rounded, at least 1 and at most the image's shorter
    side; p is halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10 000 queries, rescaled to ``steps``.
    For segmentation the objective is that of Xiang et al. (2021): the cross-entropy over the valid pixels.

    Costs at most ``steps`` forwards and no gradient; the clean image is not shown to the model. An image without a
    correct pixel left (all pixels showing the target, if targeted) does not change any more: a candidate that reaches
    this is kept for any value of its loss, and such images leave the working batch at every tenth query.

    A square that would change nothing gets other colours, as in the authors' code. That code redraws colours until the
    square changes; here they are drawn among those that change it, which is the same distribution. That code never
    uses the last row and column of positions; Algorithm 2 and this class do.

    Args:
        eps: ε, in units of the [0, 1] pixel range.
        steps: Queries of each image, the start included.
        p_init: Share of the image's pixels in the first squares, in (0, 1].
        start: Direction of the stripes; Xiang et al. find vertical ones slightly stronger.
        objective: ``"loss"``, the mean cross-entropy over the valid pixels, or ``"accuracy"``, the number of correct
            pixels (of pixels that do not show the target, if targeted).
        norm: Only ``"linf"``.
        **options: Arguments of :class:`~robustseg.attacks.Attack`.

    Raises:
        ValueError: Another norm, ``steps`` below 1, ``p_init`` outside of (0, 1], an unknown ``start`` or
            ``objective``, or a wrong ``eps``.
    """

    def __init__(
        self,
        *,
        eps: float | str = "8/255",
        steps: int = 1000,
        p_init: float = 0.8,
        start: Stripes = "vertical",
        objective: Objective = "loss",
        norm: Norm = "linf",
        **options: Any,
    ):
        super().__init__(**options)
        if norm != "linf":
            raise ValueError(f"norm = {norm!r}: Square is made for linf.")
        if steps < 1:
            raise ValueError(f"steps = {steps}: an attack makes at least one query.")
        if not 0 < p_init <= 1:
            raise ValueError(f"p_init = {p_init} is outside of (0, 1]: it is a share of the pixels, 0.8 in the paper.")
        if start not in ("vertical", "horizontal"):
            raise ValueError(f"start = {start!r}: use vertical or horizontal.")
        if objective not in ("loss", "accuracy"):
            raise ValueError(f"objective = {objective!r}: use loss or accuracy.")
        self.threat: ThreatModel = ThreatModel(eps, norm)
        self.steps = steps
        self.p_init = p_init
        self.start: Stripes = start
        self.objective: Objective = objective

    def perturb(  # noqa: D102
        self, victim: Victim, images: Tensor, targets: Tensor, noise: NoiseSource, on_step: OnStep | None
    ) -> Tensor:
        if self.threat.eps == 0:
            return images
        with torch.no_grad():
            state = self._begin(victim, images, targets, noise)
            images_adv = state.images_adv
            for step in range(self.steps):
                if step and step % LEAVE_EVERY == 0:
                    self._confirm(state)
                    going = positions(~state.finished)
                    if len(going) < len(state.rows):
                        images_adv = images_adv.index_copy(0, state.rows, state.images_adv)
                        state = state.select(going)
                    if not len(going):
                        break
                self._query(state, step, on_step)
            self._confirm(state)
            return images_adv.index_copy(0, state.rows, state.images_adv)

    def _begin(self, victim: Victim, images: Tensor, targets: Tensor, noise: NoiseSource) -> _State:
        allowed = self.threat.around(images)
        low, high = allowed.project(torch.zeros_like(images)), allowed.project(torch.ones_like(images))
        count, channels, height, width = images.shape
        line = (1, width) if self.start == "vertical" else (height, 1)
        # In float64, which represents the positions of any image exactly; half-precision draws would be coarse.
        stripes = noise.uniform(images.new_empty(count, channels, *line, dtype=torch.float64)) < 0.5
        draws = noise.uniform(images.new_empty(count, self.steps - 1, 3, dtype=torch.float64))
        return _State(
            victim=victim,
            targets=targets,
            low=low,
            high=high,
            draws=draws,
            rows=torch.arange(count, device=images.device),
            images_adv=torch.where(stripes, low, high),
            score=torch.full((count,), -math.inf, dtype=torch.float64, device=images.device),
            finished=torch.zeros(count, dtype=torch.bool, device=images.device),
        )

    def _query(self, state: _State, step: int, on_step: OnStep | None) -> None:
        """Query the model with the start or a candidate and keep it for images with a worse objective."""
        candidate = self._candidate(state, step - 1) if step else state.images_adv
        logits = state.victim(candidate)
        loss, perfect, hits = self._judge(logits, state.targets)
        score = loss if self.objective == "loss" else -hits
        score = -score if self.targeted else score
        kept = ((score > state.score) | perfect) & ~state.finished
        state.score = torch.where(kept, score.to(state.score.dtype), state.score)
        state.images_adv = torch.where(per_image(kept, candidate), candidate, state.images_adv)
        state.victim.add_doubt(loss.sum())
        state.finished = state.finished | perfect | ~loss.isfinite()
        if on_step is not None:
            on_step(AttackStep(step + 1, self.steps, 0, candidate, logits, state.targets, loss, state.rows))

    def _confirm(self, state: _State) -> None:
        """Have images that a search found finished judged; those that are not go on."""

        def judge(logits: Tensor, rows: Tensor) -> Tensor:
            return self._judge(logits, state.targets[rows])[1]

        state.finished = state.victim.confirmed(state.finished, state.finished, state.images_adv, judge)

    def _judge(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return, for each image, the mean cross-entropy, a flag for finished images, and the correct pixels."""
        valid = (targets != IGNORED).flatten(1).sum(1)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # Summed in float64: a small square changes the sum by little.
        loss = cross_entropy(wide, targets).flatten(1).sum(1, dtype=torch.float64) / valid
        hits = correct_pixels(logits, targets).flatten(1).sum(1)
        return loss, hits == (valid if self.targeted else 0), hits

    def _candidate(self, state: _State, number: int) -> Tensor:
        """Return the kept images with a square repainted in each; ``number`` counts candidates from 0."""
        height, width = state.low.shape[-2:]
        side = self._side(number, height, width)
        across, down, colour = state.draws[:, number].unbind(1)
        top = (down * (height - side + 1)).long().view(-1, 1, 1, 1)
        left = (across * (width - side + 1)).long().view(-1, 1, 1, 1)
        i = torch.arange(height, device=state.low.device).view(-1, 1)
        j = torch.arange(width, device=state.low.device)
        inside = (i >= top) & (i < top + side) & (j >= left) & (j < left + side)
        bright = self._colours(state, inside, colour).unsqueeze(-1).unsqueeze(-1)
        return torch.where(inside, torch.where(bright, state.high, state.low), state.images_adv)

    @staticmethod
    def _colours(state: _State, inside: Tensor, draw: Tensor) -> Tensor:
        """Draw the channels of a square that become x + ε, B×3 bool, evenly among the colours that change it."""
        channels = state.low.shape[1]
        numbers = torch.arange(2**channels, device=draw.device).unsqueeze(1)
        colours = (numbers >> torch.arange(channels, device=draw.device)) & 1 == 1
        darkens = ((state.images_adv != state.low) & inside).flatten(2).any(2).unsqueeze(1)
        brightens = ((state.images_adv != state.high) & inside).flatten(2).any(2).unsqueeze(1)
        changes = torch.where(colours, brightens, darkens).any(2)
        # If rounding leaves no room for ε, no colour changes the square.
        changes = changes | ~changes.any(1, keepdim=True)
        order = changes.cumsum(1)
        chosen = (draw.unsqueeze(1) * order[:, -1:]).long() + 1
        return colours[((order == chosen) & changes).long().argmax(1)]

    def _side(self, number: int, height: int, width: int) -> int:
        """Compute the side in pixels of the square of candidate ``number`` = 0, 1, …"""
        position = number * 10_000 // self.steps
        share = self.p_init / 2 ** sum(position > after for after in _HALVINGS)
        return min(max(round(math.sqrt(share * height * width)), 1), height, width)

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            "attack": type(self).__name__,
            "eps": str(self.threat.eps),
            "norm": self.threat.norm,
            "steps": self.steps,
            "p_init": self.p_init,
            "start": self.start,
            "objective": self.objective,
            "targeted": self.targeted,
            "seed": self.seed,
        }


@dataclass
class _State(Working):
    """The images that are still being attacked, with the state of the search for each."""

    low: Tensor
    """x − ε within [0, 1], B×3×H×W."""
    high: Tensor
    """x + ε within [0, 1], B×3×H×W."""
    draws: Tensor
    """U[0, 1) of all candidates, B×(steps − 1)×3: position across and down, and colour."""
    images_adv: Tensor
    """B×3×H×W, the kept candidates."""
    score: Tensor
    """B values of the objective, the larger the worse for the model."""
    finished: Tensor
    """B bool: no pixel is left to fool, or the loss is not finite, which is an error at the end."""
