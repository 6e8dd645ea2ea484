"""The only gradient loop: threat × loss × step rule × start × input transform."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from robustseg.attacks.base import Attack, AttackStep, OnStep, check_logits
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

    Costs ``steps`` forwards and input gradients per restart. One more forward ranks the last iterate where
    ``keep="best"`` or more than one restart needs it; with an input transform, ranking takes a forward per iterate.

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
        if self.restarts == 1:
            return self._run(model, region, targets, noise, on_step, restart=0)
        best = _Best(self.targeted)
        for restart in range(self.restarts):
            images_adv = self._run(model, region, targets, noise, on_step, restart)
            best.offer(images_adv, _logits_only(model, images_adv), targets)
        return best.images_adv

    def _run(
        self,
        model: Model,
        region: Region,
        targets: Tensor,
        noise: NoiseSource,
        on_step: OnStep | None,
        restart: int,
    ) -> Tensor:
        """One run from one start; returns allowed images, detached."""
        images_adv = region.sample(noise) if self.random_start else region.images.clone()
        state = self.step_rule.init(images_adv, region, self.steps)
        best = _Best(self.targeted) if self.keep == "best" else None
        for step in range(self.steps):
            images_adv.requires_grad_()
            seen, seen_targets = images_adv, targets
            if self.transform is not None:
                seen, seen_targets = self.transform(images_adv, targets, noise)
            logits = model(seen)
            if step == 0 and restart == 0:
                check_logits(logits, seen, seen_targets)
            loss = self.loss(logits, seen_targets, step / self.steps, self.targeted)
            increased = -loss if self.targeted else loss
            (grad,) = torch.autograd.grad(increased.sum(), images_adv)
            images_adv, logits, increased = images_adv.detach(), logits.detach(), increased.detach()
            if best is not None:
                ranked = logits if self.transform is None else _logits_only(model, images_adv)
                best.offer(images_adv, ranked, targets)
            if on_step is not None:
                shown = AttackStep(step + 1, self.steps, restart, images_adv, logits, seen_targets, loss.detach())
                on_step(shown)
            # The next forward builds its graph while these would still hold the memory of the last one.
            del seen, logits, loss
            images_adv = region.project(self.step_rule.update(images_adv, grad, increased, state, region))
        if best is not None:
            best.offer(images_adv, _logits_only(model, images_adv), targets)
            images_adv = best.images_adv
        return _refuse_non_finite(region.finish(images_adv))

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


def _refuse_non_finite(images_adv: Tensor) -> Tensor:
    if not bool(torch.isfinite(images_adv).all()):
        raise AttackError(
            "the attack met gradients that are not finite: the model overflows or divides by zero on these images; "
            "run it in float32 and look for non-finite logits or weights."
        )
    return images_adv
