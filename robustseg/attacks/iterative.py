"""The gradient loop of all attacks: threat × loss × step rule × start × input transform."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from robustseg.attacks.base import Attack, AttackStep, OnStep, shown_logits
from robustseg.attacks.best import Best
from robustseg.attacks.checks import UNIT
from robustseg.attacks.describe import describe_part, setting_text
from robustseg.attacks.gradients import LEAVE_EVERY, input_gradient, logits_only
from robustseg.attacks.losses.base import AttackLoss, ClassPixels
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.scaling import leaf
from robustseg.attacks.settings import settings_of
from robustseg.attacks.steps.base import StepRule, StepState
from robustseg.attacks.threat import AllowedSet, ThreatModel
from robustseg.attacks.transforms import InputTransform
from robustseg.attacks.victim import Victim
from robustseg.attacks.working import Batch

Keep = Literal["last", "best"]
Stages = Sequence[tuple[float, float]]


class IterativeAttack(Attack):
    """An attack that follows the input gradient; the named attacks are presets of it.

    Costs ``steps`` forwards and input gradients per restart. One more forward per restart ranks the last iterate
    where ``keep="best"`` or more than one restart needs it; with an input transform or a look-ahead, ``"best"`` takes
    a forward per iterate. With ``"best"``, images without a correct pixel left (all pixels showing the target, if
    targeted) leave the working batch at every tenth step: their result cannot change any more. (In attack mode
    ``"train"`` the batch statistics no longer include them either.)

    Args:
        threat: The allowed perturbations.
        loss: Loss to increase, or to decrease if targeted.
        step_rule: Rule that moves the iterate.
        steps: T ≥ 1.
        random_start: Start from noise in the allowed set instead of from the image.
        restarts: Independent runs; each image keeps the run that fools most pixels.
        keep: Return each image's ``"last"`` iterate or the ``"best"``: fewest correct pixels (most pixels that show
            the target, if targeted), the start included, the earliest of equals.
        transform: Random change of the input at each step.
        stages: (share of the steps, multiple of ε) one after the other; each begins from the kept iterate of the one
            before, projected, with the step rule started anew. The last multiple is 1. With ``keep="best"``, only
            iterates of the last stage count as results.
        watched: Loss whose values the step rule receives, by default ``loss`` itself.
        **options: Arguments of :class:`~robustseg.attacks.Attack`.

    Raises:
        ValueError: ``steps`` or ``restarts`` below 1, restarts without random start, unknown ``keep``, or ``stages``
            that do not end at ε or leave a stage without a step.
    """

    def __init__(
        self,
        threat: ThreatModel,
        loss: AttackLoss,
        step_rule: StepRule,
        steps: int,
        *,
        random_start: bool = True,
        restarts: int = 1,
        keep: Keep = "last",
        transform: InputTransform | None = None,
        stages: Stages = ((1.0, 1.0),),
        watched: AttackLoss | None = None,
        **options: Any,
    ):
        super().__init__(**options)
        if steps < 1:
            raise ValueError(f"steps = {steps}: an attack takes at least one step (attack: null trains without one).")
        if restarts < 1:
            raise ValueError(f"restarts = {restarts}: there is at least one run.")
        if restarts > 1 and not random_start and transform is None:
            raise ValueError(f"restarts = {restarts} without random_start would repeat the same run.")
        if keep not in ("last", "best"):
            raise ValueError(f"keep = {keep!r}: use last or best.")
        for name, value, kind, example in (
            ("loss", loss, AttackLoss, "loss: give an object, CrossEntropy() for example"),
            ("watched", watched or loss, AttackLoss, "loss: give an object, CrossEntropy() for example"),
            ("threat", threat, ThreatModel, 'threat model: give an object, ThreatModel("8/255") for example'),
            ("step_rule", step_rule, StepRule, "step rule: give an object, SignStep(0.01) for example"),
            ("transform", transform, (InputTransform, type(None)), "input transform: give an object, or None"),
        ):
            if not isinstance(value, kind):
                raise ValueError(f"{name} = {value!r} is no {example}.")
        self.threat: ThreatModel = threat
        self.loss = loss
        self.step_rule = step_rule
        self.steps = steps
        self.random_start = random_start
        self.restarts = restarts
        self.keep = keep
        self.transform = transform
        self.stages = tuple(stages)
        self.watched = watched
        self._stage_steps = _split_steps(steps, self.stages)

    def perturb(  # noqa: D102
        self, victim: Victim, images: Tensor, targets: Tensor, noise: NoiseSource, on_step: OnStep | None
    ) -> Tensor:
        if self.threat.eps == 0:
            return images
        everything = torch.arange(len(images), device=images.device)
        batch = _Batch(victim, targets, everything, images, noise)
        best = Best(targets, self.targeted) if self.keep == "best" or self.restarts > 1 else None
        slopes = torch.zeros((), device=images.device)
        images_adv = images
        for restart in range(self.restarts):
            if restart:
                batch = batch.select(best.unfinished(batch.rows)) if best else batch
                if not len(batch.rows):
                    break
            images_adv, slope = self._restart(batch, restart, best, on_step)
            slopes = slopes + slope
            if best is not None:
                best.settle(batch.victim, batch.rows)
        victim.add_slopes(slopes)
        return self.threat.around(images).finish(images_adv if best is None else best.images_adv)

    def _restart(self, batch: _Batch, restart: int, best: Best | None, on_step: OnStep | None) -> tuple[Tensor, Tensor]:
        """Run all stages from one start; return the last iterate and the sum of all gradients."""
        images_adv, before = batch.images, 0
        slopes = torch.zeros((), device=images_adv.device)
        for stage, (steps, (_, factor)) in enumerate(zip(self._stage_steps, self.stages, strict=True)):
            final = stage == len(self.stages) - 1
            threat = self.threat if factor == 1 else self.threat.scaled(factor)
            allowed = threat.around(batch.images)
            if stage:
                # Shared draws of a stage must not depend on the step at which images of the stage before finished.
                batch = replace(batch, noise=batch.noise.fork(stage + len(self.stages) * restart))
            start = allowed.sample(batch.noise) if self.random_start and stage == 0 else allowed.project(images_adv)
            # Ranks of the iterates within this stage: iterates in a larger ball are not results.
            kept = best if final else (Best(batch.targets, self.targeted) if self.keep == "best" else None)
            rows = batch.rows if final else torch.arange(len(batch.rows), device=batch.rows.device)
            run = _Run(steps, before, restart, kept, rows, on_step, final)
            images_adv, slope = self._run(batch, allowed, start, run)
            if kept is not None and not final:
                images_adv = kept.images_adv
            slopes, before = slopes + slope, before + steps
        return images_adv, slopes

    def _run(self, batch: _Batch, allowed: AllowedSet, images_adv: Tensor, run: _Run) -> tuple[Tensor, Tensor]:
        """Run one stage from one start and offer all iterates to ``run.kept``.

        Returns:
            The last iterate of the images that did not leave, detached, and the sum of all gradients, which is finite
            only if they all are.
        """
        images_adv = images_adv.clone()
        state = self.step_rule.init(images_adv, allowed, run.steps)
        going = _Iterates(**vars(batch), allowed=allowed, images_adv=images_adv, state=state, ranked=run.rows)
        slope = torch.zeros((), device=images_adv.device)
        for step in range(run.steps):
            if run.kept is not None and self.keep == "best" and step and step % LEAVE_EVERY == 0:
                if run.final:
                    run.kept.confirm(going.victim, going.ranked)
                going = going.select(run.kept.unfinished(going.ranked))
                if not len(going.rows):
                    return going.images_adv, slope
            slope = slope + self._step(going, step, run)
        if run.kept is not None:
            run.kept.offer(going.images_adv, logits_only(going.victim, going.images_adv), going.ranked)
        return going.images_adv, slope

    def _step(self, batch: _Iterates, step: int, run: _Run) -> Tensor:
        """Move the iterates; return the sum of the gradient."""
        images_adv = batch.images_adv
        ahead = self.step_rule.look_ahead(images_adv, batch.state, batch.allowed)
        # Each step has its own graph; the rule may have returned the iterate itself.
        point = leaf(ahead)
        seen, seen_targets = point, batch.targets
        if self.transform is not None:
            seen, seen_targets = self.transform(point, batch.targets, batch.noise)
        logits = batch.victim(seen)
        loss = self._objective(batch.victim, logits, seen_targets, (run.before + step) / self.steps)
        watched = loss.detach() if self.watched is None else self._watch(logits, seen_targets, run.before + step)
        if run.kept is not None and self.keep == "best":
            is_iterate = self.transform is None and ahead is images_adv
            run.kept.offer(
                images_adv, logits.detach() if is_iterate else logits_only(batch.victim, images_adv), batch.ranked
            )
        # The loss has saved what it needs; the logits would stay in memory through the backward pass.
        shown = shown_logits(run.on_step, logits)
        del seen, logits
        grad = input_gradient(-loss.sum() if self.targeted else loss.sum(), point)
        if run.on_step is not None and shown is not None:
            run.on_step(
                AttackStep(
                    run.before + step + 1,
                    self.steps,
                    run.restart,
                    images_adv.detach(),
                    shown,
                    seen_targets,
                    loss.detach(),
                    batch.rows,
                )
            )
        del shown, loss
        watched = -watched if self.targeted else watched
        moved = self.step_rule.update(images_adv, grad, watched, batch.state, batch.allowed)
        batch.images_adv = batch.allowed.project(moved)
        # Looked at after the run, since that waits; the sign of NaN is 0, so the model would seem robust.
        return grad.sum(dtype=torch.float32)

    def _objective(self, victim: Victim, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        """Compute the objective of a step, B values; overridden by attacks that use more than the logits."""
        return self.loss(logits, targets, progress, self.targeted)

    def _watch(self, logits: Tensor, targets: Tensor, step: int) -> Tensor:
        assert self.watched is not None
        with torch.no_grad():
            return self.watched(logits, targets, step / self.steps, self.targeted)

    def for_data(self, class_pixels: ClassPixels) -> Attack:  # noqa: D102
        loss = self.loss.for_data(class_pixels)
        return self if loss is self.loss else self.with_loop(loss=loss)

    def with_loop(self, **settings: Any) -> IterativeAttack:
        """Copy the attack with other settings of the loop, also with those that its class fixes.

        Args:
            **settings: Arguments of :class:`IterativeAttack`, such as ``threat``, ``loss``, ``step_rule`` or ``steps``.

        Raises:
            TypeError: The loop has no such setting.
            ValueError: The loop refuses a value, or the combination.
        """
        clone = copy.copy(self)
        clone._given = None
        own = {name: getattr(self, name) for name in settings_of(IterativeAttack)}
        IterativeAttack.__init__(clone, **{**own, **settings})
        return clone

    def describe(self) -> dict[str, Any]:  # noqa: D102
        described = {
            "attack": type(self).__name__,
            "eps": str(self.threat.eps),
            "norm": self.threat.norm,
            "loss": describe_part(self.loss),
            "step_rule": describe_part(self.step_rule),
            "steps": self.steps,
            "random_start": self.random_start,
            "restarts": self.restarts,
            "targeted": self.targeted,
            "keep": self.keep,
            "transform": None if self.transform is None else describe_part(self.transform),
            "seed": self.seed,
        }
        if len(self.stages) > 1:
            parts = zip(self._stage_steps, self.stages, strict=True)
            described["stages"] = [{"steps": steps, "eps_factor": float(factor)} for steps, (_, factor) in parts]
        if self.threat.bounds != UNIT:
            described["bounds"] = list(self.threat.bounds)
        if self.watched is not None:
            described["watched"] = describe_part(self.watched)
        return described

    def __repr__(self) -> str:
        settings = ", ".join(
            f"{name}={setting_text(value)}" for name, value in self.describe().items() if name != "attack"
        )
        return f"{type(self).__name__}({settings})"


@dataclass
class _Batch(Batch):
    noise: NoiseSource


@dataclass
class _Iterates(_Batch):
    """One run's iterates."""

    allowed: AllowedSet
    images_adv: Tensor
    state: StepState
    ranked: Tensor
    """Rows of ``run.kept``, B indices."""


@dataclass(frozen=True)
class _Run:
    """One run of the loop within a restart."""

    steps: int
    before: int
    """Steps of the stages before it."""
    restart: int
    kept: Best | None
    rows: Tensor
    """Rows of ``kept`` for the images, B indices."""
    on_step: OnStep | None
    final: bool
    """It is the last stage, whose iterates are results."""


def _split_steps(steps: int, stages: Stages) -> list[int]:
    """Return the steps of each stage: its share, rounded down; the last stage gets the rest."""
    if not stages or stages[-1][1] != 1:
        raise ValueError(f"stages = {stages}: (share of the steps, multiple of eps) pairs, the last with 1 x eps.")
    counts = [int(share * steps + 1e-9) for share, _ in stages[:-1]]
    counts.append(steps - sum(counts))
    if min(counts) < 1:
        raise ValueError(
            f"steps = {steps} leave a stage of {[share for share, _ in stages]} without a step: take more."
        )
    return counts
