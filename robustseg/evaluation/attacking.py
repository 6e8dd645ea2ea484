"""Attacks on a batch and the model's predictions, in full precision."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustseg.attacks import Attack, AttackResult, AttackStep, NoiseSource, Search, Targeted, attack_mode
from robustseg.attacks.checks import check_logits
from robustseg.attacks.guard import Model
from robustseg.attacks.losses.base import IGNORED
from robustseg.evaluation.errors import EvaluationError
from robustseg.numerics.precision import full_precision, lowered
from robustseg.types import IGNORE_INDEX, ignored_pixels

CLEAN = "clean"
"""Name of the scores without attack."""


class Attacked(NamedTuple):
    """The adversarial images of a batch under one attack, and the predictions for them."""

    images_adv: Tensor
    """B×3×H×W in [0, 1]."""
    predictions: Tensor
    """B×H×W class ids."""


class Outcome(NamedTuple):
    """The result of an attack on a batch, with its target map and its duration."""

    result: AttackResult
    wanted: Tensor | None
    """B×H×W class ids, the target map of a targeted attack; None for other attacks."""
    seconds: float
    """Duration of the attack on the whole batch."""


def predict(model: Model, images: Tensor, targets: Tensor, ignore_index: int | None = IGNORE_INDEX) -> Tensor:
    """Predict class ids B×H×W for images B×3×H×W with the model in eval mode.

    Args:
        model: Function from images in [0, 1] to logits at their size.
        images: B×3×H×W in [0, 1].
        targets: B×H×W class ids, to check the shape of the logits against.
        ignore_index: Label of pixels that are not counted; None counts all.

    It is computed in full precision.

    Raises:
        AttackError: The logits do not fit the targets, or are not finite.
        EvaluationError: The model switched on a lower precision.
    """
    with full_precision(), attack_mode(model) as evaluated, torch.no_grad():
        answer = evaluated(images)
        if lower := lowered():
            raise EvaluationError(
                f"the model's forward switched on {lower}, and figures are computed in float32: let it leave torch's "
                "switches alone, or switch it off again before it returns."
            )
        valid = targets.long().masked_fill(ignored_pixels(targets, ignore_index), IGNORED)
        # NaN would be scored as some class: a broken model must not get figures.
        return check_logits(answer, images, valid, differentiable=False).argmax(1)


def untouched(images: Tensor) -> AttackResult:
    """Return an attack result with the clean images B×3×H×W and no cost."""
    nothing = torch.zeros(len(images), dtype=torch.int64)
    return AttackResult(images, nothing, nothing.clone(), torch.ones(len(images), dtype=torch.bool))


def attack_batch(
    model: Model,
    attack: Attack,
    ids: Sequence[str],
    images: Tensor,
    targets: Tensor,
    seed: int = 0,
    on_step: Callable[[AttackStep], None] | None = None,
    search: Search | None = None,
) -> Outcome:
    """Attack a batch; to be called within :func:`~robustseg.numerics.precision.full_precision`.

    Args:
        model: Function from images in [0, 1] to logits at their size.
        attack: The attack. Its noise is a function of its seed, ``seed`` and the sample's id.
        ids: B sample ids.
        images: B×3×H×W in [0, 1].
        targets: B×H×W class ids.
        seed: Seed of the evaluation.
        on_step: Function that is called after each gradient.
        search: Precision to search in; by default that of the images.

    Raises:
        AttackError: The attack cannot be run on the model or the batch.
    """
    noise = NoiseSource.for_samples((seed, attack.seed), ids, images.device)
    start = time.perf_counter()
    result = attack.run(model, images, targets, generator=noise, on_step=on_step, search=search)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    seconds = time.perf_counter() - start
    return Outcome(result, attack.wanted(targets) if isinstance(attack, Targeted) else None, seconds)
