"""The only gradient loop: threat × loss × step rule × start × input transform."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from robustseg.attacks.base import NO_GRADIENT, Attack, AttackStep, OnStep, check_logits
from robustseg.attacks.guard import AttackError, Model
from robustseg.attacks.losses import AttackLoss, correct_pixels
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.steps import StepRule
from robustseg.attacks.threat import Region, ThreatModel, per_image
from robustseg.attacks.transforms import InputTransform
from robustseg.types import IGNORE_INDEX

Keep = Literal["last", "best"]


class IterativeAttack(Attack):
    """Any attack that follows the input gradient; the named attacks are presets of it.

    Costs ``steps`` forwards and input gradients per restart. One more forward per restart ranks the last iterate
    where ``keep="best"`` or more than one restart needs it; with an input transform, ``"best"`` takes a forward per
    iterate.

    Args:
        threat: The allowed perturbations.
        loss: What is increased, or decreased if targeted.
        step_rule: How the iterate moves.
        steps: T ≥ 1.
        random_start: Start from noise in the allowed set instead of from the image.
        restarts: Independent runs, of which each image keeps the one that fools most pixels.
        targeted: ``targets`` are what the attacker wants to see.
        keep: Return each image's ``"last"`` iterate or the ``"best"``: fewest correct pixels (most pixels that show
            the target, if targeted), the start included, the earliest of equals.
        transform: Random change of the input at each step.
        ignore_index: Label of pixels that take no part.
        seed: Seed of the noise where the call gives no generator.

    Raises:
        ValueError: ``steps`` or ``restarts`` below 1, restarts without random start, or unknown ``keep``.
    """

    def __init__(
        self,
        threat: ThreatModel,
        loss: AttackLoss,
        step_rule: StepRule,
        steps: int,
        random_start: bool = True,
        restarts: int = 1,
        targeted: bool = False,
        keep: Keep = "last",
        transform: InputTransform | None = None,
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
    ):
        super().__init__(targeted=targeted, ignore_index=ignore_index, seed=seed)
        if steps < 1:
            raise ValueError(f"steps = {steps}: an attack takes at least one step (attack: null trains without one).")
        if restarts < 1:
            raise ValueError(f"restarts = {restarts}: there is at least one run.")
        if restarts > 1 and not random_start and transform is None:
            raise ValueError(f"restarts = {restarts} without random_start would repeat the same run.")
        if keep not in ("last", "best"):
            raise ValueError(f"keep = {keep!r}: use last or best.")
        self.threat = threat
        self.loss = loss
        self.step_rule = step_rule
        self.steps = steps
        self.random_start = random_start
        self.restarts = restarts
        self.keep = keep
        self.transform = transform

    def perturb(  # noqa: D102
        self, model: Model, images: Tensor, targets: Tensor, noise: NoiseSource, on_step: OnStep | None
    ) -> Tensor:
        if self.threat.eps == 0:
            return images
        region = self.threat.around(images)
        best = _Best(self.targeted) if self.keep == "best" or self.restarts > 1 else None
        slopes = torch.zeros((), device=images.device)
        for restart in range(self.restarts):
            images_adv, slope = self._run(model, region, targets, noise, on_step, restart, best)
            slopes = slopes + slope
            if best is not None:
                best.offer(images_adv, _logits_only(model, images_adv), targets)
        _refuse_non_finite(slopes)
        return region.finish(images_adv if best is None else best.images_adv)

    def _run(
        self,
        model: Model,
        region: Region,
        targets: Tensor,
        noise: NoiseSource,
        on_step: OnStep | None,
        restart: int,
        best: _Best | None,
    ) -> tuple[Tensor, Tensor]:
        """One run from one start, which shows ``best`` all iterates but the last.

        Returns:
            The last iterate, detached, and the sum of all gradients, which is finite only if they all are.
        """
        images_adv = region.sample(noise) if self.random_start else region.images.clone()
        state = self.step_rule.init(images_adv, region, self.steps)
        slope = torch.zeros((), device=images_adv.device)
        for step in range(self.steps):
            images_adv.requires_grad_()
            seen, seen_targets = images_adv, targets
            if self.transform is not None:
                seen, seen_targets = self.transform(images_adv, targets, noise)
            logits = model(seen)
            if step == 0 and restart == 0:
                # All targets: a transform may leave out the one that is wrong.
                check_logits(logits, seen, targets)
            loss = self.loss(logits, seen_targets, step / self.steps, self.targeted)
            increased = -loss if self.targeted else loss
            if best is not None and self.keep == "best":
                now = images_adv.detach()
                best.offer(now, logits.detach() if self.transform is None else _logits_only(model, now), targets)
            # The loss has saved what it needs; the logits would stay in memory through the backward pass.
            shown = logits.detach() if on_step is not None else None
            del seen, logits
            grad = _input_gradient(increased.sum(), images_adv)
            # Looked at when the run is over, since looking waits; the sign of NaN is 0, which would pass for robust.
            slope = slope + grad.sum(dtype=torch.float32)
            images_adv, loss, increased = images_adv.detach(), loss.detach(), increased.detach()
            if on_step is not None and shown is not None:
                on_step(AttackStep(step + 1, self.steps, restart, images_adv, shown, seen_targets, loss))
            del shown
            images_adv = region.project(self.step_rule.update(images_adv, grad, increased, state, region))
        return images_adv, slope

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            "attack": type(self).__name__,
            "eps": str(self.threat.eps),
            "norm": self.threat.norm,
            "loss": repr(self.loss),
            "step_rule": repr(self.step_rule),
            "steps": self.steps,
            "random_start": self.random_start,
            "restarts": self.restarts,
            "targeted": self.targeted,
            "keep": self.keep,
            "transform": None if self.transform is None else repr(self.transform),
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.describe().items() if name != "attack")
        return f"{type(self).__name__}({settings})"


class _Best:
    """The most successful images seen so far, per image; nothing here waits for the device."""

    def __init__(self, targeted: bool):
        self._targeted = targeted
        self._score: Tensor | None = None
        self.images_adv: Tensor

    def offer(self, images_adv: Tensor, logits: Tensor, targets: Tensor) -> None:
        hits = correct_pixels(logits, targets).flatten(1).sum(1)
        score = hits if self._targeted else -hits
        if self._score is None:
            self._score, self.images_adv = score, images_adv.clone()
            return
        better = score > self._score
        self._score = torch.where(better, score, self._score)
        self.images_adv = torch.where(per_image(better, images_adv), images_adv, self.images_adv)


def _logits_only(model: Model, images_adv: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images_adv)


def _input_gradient(value: Tensor, images_adv: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(value, images_adv, allow_unused=True)
    if grad is None:
        raise AttackError(NO_GRADIENT)
    return grad


def _refuse_non_finite(slopes: Tensor) -> None:
    if not bool(torch.isfinite(slopes)):
        raise AttackError(
            "the attack met gradients that are not finite: the model overflows or divides by zero on these images; "
            "run it in float32 and look for non-finite logits or weights."
        )
