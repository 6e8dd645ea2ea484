"""A batch under one attack, and the model's answer to it, in full precision."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from robustseg.attacks import Attack, AttackResult, AttackStep, NoiseSource, Targeted, attack_mode
from robustseg.attacks.base import check_logits
from robustseg.attacks.guard import Model
from robustseg.attacks.losses.base import IGNORED
from robustseg.types import IGNORE_INDEX

CLEAN = "clean"
"""Name of the scores without attack."""


class Attacked(NamedTuple):
    """One batch under one attack."""

    images_adv: Tensor
    """B×3×H×W."""
    predictions: Tensor
    """B×H×W."""


class Outcome(NamedTuple):
    """What an attack made of a batch, and what that took."""

    result: AttackResult
    wanted: Tensor | None
    """B×H×W, what a targeted attack wanted the model to show."""
    seconds: float
    """Of the attack, for the batch."""


OnAttackStep = Callable[[str, AttackStep], None]


def predict(model: Model, images: Tensor, targets: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Class ids B×H×W that the model in eval mode gives images B×3×H×W.

    Raises:
        AttackError: The answer does not fit to the targets B×H×W, or is not finite.
    """
    with attack_mode(model) as evaluated, torch.no_grad():
        answer = evaluated(images)
        valid = targets.long().masked_fill(targets == ignore_index, IGNORED)
        # NaN would be scored as some class: a broken model must not get figures.
        return check_logits(answer, images, valid, differentiable=False).argmax(1)


def untouched(images: Tensor) -> AttackResult:
    """The result of no attack."""
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
) -> Outcome:
    """Attack a batch, to be called within :func:`full_precision`.

    Args:
        model: Maps images in [0, 1] to logits at their size.
        attack: The attack. Its noise is a function of its seed, ``seed`` and the sample's id.
        ids: B sample ids.
        images: B×3×H×W in [0, 1].
        targets: B×H×W.
        seed: Of the evaluation.
        on_step: Called after each gradient.

    Raises:
        AttackError: As the attack.
    """
    noise = NoiseSource.for_samples((seed, attack.seed), ids, images.device)
    start = time.perf_counter()
    result = attack.run(model, images, targets, generator=noise, on_step=on_step)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    seconds = time.perf_counter() - start
    return Outcome(result, attack.wanted(targets) if isinstance(attack, Targeted) else None, seconds)


def named_step(on_step: OnAttackStep | None, name: str) -> Callable[[AttackStep], None] | None:
    """``on_step`` for the attack called ``name``."""
    return None if on_step is None else lambda step: on_step(name, step)


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 without autocast and without TF32 for the duration, in which robustness figures are to be computed."""
    matmul = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    try:
        torch.set_float32_matmul_precision("highest")
        with (
            cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, allow_tf32=False),
            torch.autocast("cuda", enabled=False),
            torch.autocast("cpu", enabled=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
