"""Traces of attacks: the number of wrong pixels after each step, and the loss of wrong and correct pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks import (
    Attack,
    AttackMode,
    AttackResult,
    AttackStep,
    IterativeAttack,
    NoiseSource,
    Search,
    StepRule,
    TranslationInvariantStep,
    attack_mode,
    correct_pixels,
)
from robustseg.attacks.checks import check_logits
from robustseg.attacks.guard import Model
from robustseg.attacks.losses.base import IGNORED, cross_entropy
from robustseg.attacks.victim import Victim
from robustseg.types import ignored_pixels

COLUMNS = ("valid", "wrong", "tloss", "floss")
"""Columns of a trace: valid pixels, wrong pixels, and the summed cross-entropy of correct and of wrong pixels."""


def trace_columns(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the columns of a trace (Gu et al., ECCV 2022, Eq. 3 and Sec. 3.2) for one iterate.

    MisRatio is ``wrong / valid``, TLoss ``tloss / valid`` and FLoss ``floss / valid``; the cross-entropy of an image is
    TLoss + FLoss. The paper has no ignored pixels and divides by H·W.

    Args:
        logits: B×C×H×W.
        targets: B×H×W class ids, :data:`~robustseg.attacks.losses.base.IGNORED` for ignored pixels.

    Returns:
        B×4 float64, columns :data:`COLUMNS`. A tie with the true logit counts as correct, as in the attacks.
    """
    correct, valid = correct_pixels(logits, targets), targets != IGNORED
    losses = cross_entropy(logits, targets).double()
    wrong = valid & ~correct
    columns = (valid, wrong, losses * correct, losses * wrong)
    return torch.stack([column.flatten(1).sum(1, dtype=torch.float64) for column in columns], 1)


class Traced(Attack):
    """An attack whose result also has a ``trace``, B×(T+1)×4 float64 with :data:`COLUMNS`.

    Row t is the iterate after t steps: row 0 is the start, and row T the result, which takes one more forward pass. An
    image without valid pixels has zeros. The adversarial images are the same as without a trace. A search in low
    precision is traced in float32, which takes one more forward pass at each step.

    Args:
        attack: The attack to trace, a single run with a fixed number of steps and gradients at its own iterates.

    Raises:
        ValueError: The attack returns another iterate than the last, has restarts or stages, or takes its gradients at
            other points (resized images, Nesterov's look-ahead), so that its losses are not those of the iterate.
    """

    def __init__(self, attack: Attack):
        if not isinstance(attack, IterativeAttack):
            raise ValueError(f"attack = {type(attack).__name__} has no steps to trace: use PGD, SegPGD or CosPGD.")
        if attack.keep != "last" or attack.restarts > 1 or len(attack.stages) > 1:
            raise ValueError(
                f"attack = {type(attack).__name__} is not one run to its last iterate: trace it with keep = last, one "
                "restart and no stages."
            )
        if attack.transform is not None or _looks_ahead(attack.step_rule):
            raise ValueError(
                f"attack = {type(attack).__name__} takes its gradients elsewhere than at its iterates: trace an attack "
                "without input transform and look-ahead."
            )
        super().__init__(targeted=attack.targeted, ignore_index=attack.ignore_index, seed=attack.seed)
        self.attack = attack
        self.threat = attack.threat

    def run(  # noqa: D102
        self,
        model: Model,
        images: Tensor,
        targets: Tensor,
        *,
        generator: torch.Generator | NoiseSource | None = None,
        on_step: Callable[[AttackStep], None] | None = None,
        mode: AttackMode = "eval",
        search: Search | None = None,
    ) -> AttackResult:
        trace = torch.zeros(len(images), self.attack.steps + 1, len(COLUMNS), dtype=torch.float64, device=images.device)

        def watch(step: AttackStep) -> None:
            trace[step.rows, step.step - 1] = trace_columns(step.logits, step.targets)
            if on_step is not None:
                on_step(step)

        result = super().run(model, images, targets, generator=generator, on_step=watch, mode=mode, search=search)
        masked = targets.long().masked_fill(ignored_pixels(targets, self.ignore_index), IGNORED)
        with attack_mode(model, mode) as attacked, torch.no_grad():
            logits = check_logits(attacked(result.images_adv), images, masked, differentiable=False)
            trace[:, -1] = trace_columns(logits, masked)
        if self.attack.threat.eps == 0:
            # No step was taken, and every iterate is the image.
            trace[:] = trace[:, -1:]
        return result._replace(forwards=result.forwards + 1, trace=trace)

    def perturb(  # noqa: D102
        self,
        victim: Victim,
        images: Tensor,
        targets: Tensor,
        noise: NoiseSource,
        on_step: Callable[[AttackStep], None] | None,
    ) -> Tensor:
        def judged(step: AttackStep) -> None:
            if on_step is not None:
                on_step(step._replace(logits=victim.verdict(step.images_adv)))

        return self.attack.perturb(victim, images, targets, noise, judged if victim.searches else on_step)

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {**self.attack.describe(), "traced": True}


def _looks_ahead(rule: StepRule) -> bool:
    if isinstance(rule, TranslationInvariantStep):
        return _looks_ahead(rule.inner)
    return type(rule).look_ahead is not StepRule.look_ahead
