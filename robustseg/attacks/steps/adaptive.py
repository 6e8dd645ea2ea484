"""Step rule of APGD: momentum, and a step size that is halved for images without progress."""

from __future__ import annotations

import torch
from torch import Tensor

from robustseg.attacks.steps.base import StepRule, StepState
from robustseg.attacks.threat import AllowedSet, per_image


class AdaptiveStep(StepRule):
    """The step of Auto-PGD (Croce & Hein, ICML 2020, Algorithm 1), all decisions per image.

    With η = 2ε at first and P the projection, z = P(x + η·direction(∇)) and x⁺ = P(x + a·(z − x) + (1 − a)·(x −
    x_prev)), where a = ``momentum``, and 1 in the first step. Checkpoints come after 0.22·T steps and then in intervals
    that shrink by 0.03·T down to 0.06·T. At a checkpoint η is halved and the image restarts from the iterate of the
    largest loss, with its gradient, if the loss rose in at most ``rise`` of the interval's steps, or if η was not
    halved at the checkpoint before and the largest loss has not grown since.

    The attack passes the loss of these conditions, which may differ from the loss of the gradient.

    Args:
        momentum: a in (0, 1]; 0.75 in the paper.
        rise: Share of an interval's steps in which the loss must rise for η to be kept; 0.75 in the paper.

    Raises:
        ValueError: ``momentum`` or ``rise`` is out of range.
    """

    def __init__(self, momentum: float = 0.75, rise: float = 0.75):
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum = {momentum} is outside of (0, 1]: it weights the new step, 0.75 in the paper.")
        if not 0 <= rise <= 1:
            raise ValueError(f"rise = {rise} is outside of [0, 1]: it is a share of steps, 0.75 in the paper.")
        self.momentum = momentum
        self.rise = rise

    def init(self, images_adv: Tensor, allowed: AllowedSet, steps: int) -> StepState:  # noqa: D102
        dtype = torch.promote_types(images_adv.dtype, torch.float32)
        size = torch.full((len(images_adv),), 2 * float(allowed.threat.eps), dtype=dtype, device=images_adv.device)
        return {
            "steps": steps,
            "interval": max(int(0.22 * steps), 1),
            "since": 0,
            "size": size,
            "rises": torch.zeros_like(size),
            "halved": torch.ones_like(size, dtype=torch.bool),
            "before": images_adv,
        }

    def update(  # noqa: D102
        self, images_adv: Tensor, grad: Tensor, loss: Tensor, state: StepState, allowed: AllowedSet
    ) -> Tensor:
        first = "loss" not in state
        if first:
            state |= {"best": loss, "best_at_check": loss, "best_images": images_adv, "best_grad": grad}
        else:
            self._remember(images_adv, grad, loss, state)
            images_adv, grad = self._check(images_adv, grad, state)
        state["loss"] = loss
        wide = images_adv.to(state["size"].dtype)
        ahead = allowed.threat.direction(grad).to(wide.dtype) * per_image(state["size"], wide)
        moved = allowed.project((wide + ahead).to(images_adv.dtype))
        share = 1.0 if first else self.momentum
        mixed: Tensor = (
            wide + share * (moved.to(wide.dtype) - wide) + (1 - share) * (wide - state["before"].to(wide.dtype))
        )
        state["before"] = images_adv
        return mixed.to(images_adv.dtype)

    @staticmethod
    def _remember(images_adv: Tensor, grad: Tensor, loss: Tensor, state: StepState) -> None:
        """Count a rise of the loss, and keep the iterate if its loss is the largest."""
        state["since"] += 1
        state["rises"] = state["rises"] + (loss > state["loss"])
        better = loss > state["best"]
        state["best"] = torch.where(better, loss, state["best"])
        where = per_image(better, images_adv)
        state["best_images"] = torch.where(where, images_adv, state["best_images"])
        state["best_grad"] = torch.where(where, grad, state["best_grad"])

    def _check(self, images_adv: Tensor, grad: Tensor, state: StepState) -> tuple[Tensor, Tensor]:
        """Halve the step at a checkpoint and return to the best iterate for images without progress."""
        if state["since"] < state["interval"]:
            return images_adv, grad
        swings = state["rises"] <= self.rise * state["interval"]
        stuck = ~state["halved"] & (state["best"] <= state["best_at_check"])
        halve = swings | stuck
        steps = state["steps"]
        state["size"] = torch.where(halve, state["size"] / 2, state["size"])
        state["halved"] = halve
        state["best_at_check"] = state["best"]
        state["rises"] = torch.zeros_like(state["rises"])
        state["since"] = 0
        state["interval"] = max(state["interval"] - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
        back = per_image(halve, images_adv)
        return torch.where(back, state["best_images"], images_adv), torch.where(back, state["best_grad"], grad)

    def __repr__(self) -> str:
        return f"AdaptiveStep(momentum={self.momentum}, rise={self.rise})"
