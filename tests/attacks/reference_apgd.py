"""APGD once more, literally: one image at a time, in Python numbers, from its Algorithm 1 and SEA's stages.

Nothing here imports the package under test.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .reference import Loss, pixel_prediction, project, sign_direction, unit_direction, valid_pixels

Pixels = list[float]


@dataclass
class Progress:
    """What one image went through."""

    iterates: list[Pixels] = field(default_factory=list)
    """x_0 … x_T."""
    watched: list[float] = field(default_factory=list)
    """Of x_0 … x_{T−1}."""
    correct: list[int] = field(default_factory=list)
    """Correct pixels of x_0 … x_T."""
    halvings: list[int] = field(default_factory=list)
    """Number of the iterate at which η was halved."""


def checkpoints(steps: int) -> list[int]:
    """Numbers of the iterates at which progress is judged."""
    found, interval = [], max(int(0.22 * steps), 1)
    position = interval
    while position < steps:
        found.append(position)
        interval = max(interval - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
        position += interval
    return found


def literal_stage(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    target: Tensor,
    start: Pixels,
    *,
    loss: Loss,
    watched: Loss,
    eps: float,
    steps: int,
    norm: str,
    targeted: bool,
    before: int = 0,
    total: int | None = None,
) -> Progress:
    """``steps`` steps for one image, with one ball."""
    total = total or steps
    clean = image.flatten().tolist()
    run = Progress()

    def look(pixels: Pixels, t: int) -> tuple[float, Pixels]:
        variable = torch.tensor(pixels, dtype=torch.float64).reshape(1, *image.shape).requires_grad_()
        logits = model(variable)
        value = loss(logits, target[None], before + t, total, targeted)[0]
        (grad,) = torch.autograd.grad(value, variable)
        told = float(watched(logits.detach(), target[None], before + t, total, targeted)[0])
        sign = -1.0 if targeted else 1.0
        run.correct.append(count_correct(logits[0], target))
        return sign * told, [sign * g for g in grad.flatten().tolist()]

    def towards(pixels: Pixels, grad: Pixels, length: float) -> Pixels:
        direction = sign_direction(grad) if norm == "linf" else unit_direction(grad)
        return project([p + length * d for p, d in zip(pixels, direction, strict=True)], clean, eps, norm)

    size = 2 * eps
    at_check: list[int] = checkpoints(steps)
    current = start
    previous = start
    best_value, best_pixels, best_grad = -float("inf"), start, [0.0] * len(start)
    value_at_check, halved_before, last_check = -float("inf"), True, 0
    for t in range(steps):
        run.iterates.append(current)
        value, grad = look(current, t + 1)
        run.watched.append(value)
        if t == 0:
            value_at_check = value
        if value > best_value:
            best_value, best_pixels, best_grad = value, current, grad
        if t in at_check:
            rises = sum(run.watched[i] > run.watched[i - 1] for i in range(last_check + 1, t + 1))
            few_rises = rises <= 0.75 * (t - last_check)
            no_gain = not halved_before and best_value <= value_at_check
            halved_before, value_at_check, last_check = few_rises or no_gain, best_value, t
            if halved_before:
                run.halvings.append(t)
                size /= 2
                current, grad = best_pixels, best_grad
        stepped = towards(current, grad, size)
        if t == 0:
            following = stepped
        else:
            mixed = [x + 0.75 * (z - x) + 0.25 * (x - p) for x, z, p in zip(current, stepped, previous, strict=True)]
            following = project(mixed, clean, eps, norm)
        previous, current = current, following
    run.iterates.append(current)
    with torch.no_grad():
        final = model(torch.tensor(current, dtype=torch.float64).reshape(1, *image.shape))
    run.correct.append(count_correct(final[0], target))
    return run


def count_correct(logits: Tensor, target: Tensor) -> int:
    return sum(pixel_prediction(logits[:, i, j]) == int(target[i, j]) for i, j in valid_pixels(target))


def best_iterate(run: Progress, targeted: bool) -> Pixels:
    """The earliest with the fewest correct pixels (most that show the target)."""
    chosen = max(run.correct) if targeted else min(run.correct)
    return run.iterates[run.correct.index(chosen)]
