"""The attacks once more, literally and slowly: float64, one pixel after the other, from the formulas alone.

Only the gradient of the literal loss comes from autograd. Nothing here imports the package under test.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, int, int, bool], list[Tensor]]
"""(logits, targets with None-like −100 for ignored, t, T, targeted) -> one value per image."""

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images and targets to what the model sees, and the targets that belong to it."""

NO_LABEL = -100


def pixel_cross_entropy(logits: Tensor, label: int) -> Tensor:
    """−log of the softmax probability of ``label``; ``logits`` are the C values of one pixel."""
    largest = logits.detach().max()
    total = torch.zeros((), dtype=torch.float64)
    for k in range(len(logits)):
        total = total + torch.exp(logits[k] - largest)
    return torch.log(total) + largest - logits[label]


def pixel_prediction(logits: Tensor) -> int:
    values = logits.tolist()
    best = 0
    for k in range(1, len(values)):
        if values[k] > values[best]:
            best = k
    return best


def best_other(logits: Tensor, label: int) -> int:
    """The class with the largest logit but for ``label``, the first of equals; ``logits`` are those of one pixel."""
    values = logits.tolist()
    return max((k for k in range(len(values)) if k != label), key=lambda k: values[k])


def pixel_cosine(logits: Tensor, label: int) -> float:
    """cos(p, onehot(label)) = p_label/‖p‖₂ with softmax p; a number, not a variable."""
    values = logits.tolist()
    exponentials = [math.exp(value - max(values)) for value in values]
    probabilities = [value / sum(exponentials) for value in exponentials]
    return probabilities[label] / math.sqrt(sum(p * p for p in probabilities))


def valid_pixels(targets: Tensor) -> list[tuple[int, int]]:
    height, width = targets.shape
    return [(i, j) for i in range(height) for j in range(width) if int(targets[i, j]) != NO_LABEL]


def mean_cross_entropy(logits: Tensor, targets: Tensor, t: int, steps: int, targeted: bool) -> list[Tensor]:
    """(1/|V|)·Σ_V CE."""
    losses = []
    for u, y in zip(logits, targets, strict=True):
        total = (u * 0).sum()
        valid = valid_pixels(y)
        for i, j in valid:
            total = total + pixel_cross_entropy(u[:, i, j], int(y[i, j]))
        losses.append(total / max(1, len(valid)))
    return losses


def segpgd_lambda(schedule: str, constant: float, t: int, steps: int) -> float:
    if schedule == "linear":
        return (t - 1) / (2 * steps)
    if schedule == "log":
        return 0.5 * math.log(1 + (t - 1) / steps) / math.log(2)
    if schedule == "exp":
        return 0.5 * (math.pow(2, (t - 1) / steps) - 1)
    return {"constant": constant, "only-correct": 0.0}[schedule]


def segpgd(schedule: str = "linear", constant: float = 0.25) -> Loss:
    """(1/HW)·[(1−λ)·Σ_correct CE + λ·Σ_wrong CE]; a targeted attack exchanges the two weights."""

    def loss(logits: Tensor, targets: Tensor, t: int, steps: int, targeted: bool) -> list[Tensor]:
        weight = segpgd_lambda(schedule, constant, t, steps)
        losses = []
        for u, y in zip(logits, targets, strict=True):
            correct, wrong = (u * 0).sum(), (u * 0).sum()
            for i, j in valid_pixels(y):
                label = int(y[i, j])
                if pixel_prediction(u[:, i, j]) == label:
                    correct = correct + pixel_cross_entropy(u[:, i, j], label)
                else:
                    wrong = wrong + pixel_cross_entropy(u[:, i, j], label)
            weighted = weight * correct + (1 - weight) * wrong if targeted else (1 - weight) * correct + weight * wrong
            losses.append(weighted / y.numel())
        return losses

    return loss


def cospgd(logits: Tensor, targets: Tensor, t: int, steps: int, targeted: bool) -> list[Tensor]:
    """Σ_V cos·CE, or Σ_V (1 − cos)·CE if targeted."""
    losses = []
    for u, y in zip(logits, targets, strict=True):
        total = (u * 0).sum()
        for i, j in valid_pixels(y):
            label = int(y[i, j])
            cosine = pixel_cosine(u[:, i, j], label)
            total = total + (1 - cosine if targeted else cosine) * pixel_cross_entropy(u[:, i, j], label)
        losses.append(total)
    return losses


def sign_direction(grad: list[float]) -> list[float]:
    return [0.0 if g == 0 else math.copysign(1.0, g) for g in grad]


def unit_direction(grad: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(g * g for g in grad))
    return [g / length if length else 0.0 for g in grad]


def steepest(grad: list[float], norm: str) -> list[float]:
    """Of length 1 by the norm."""
    if norm == "linf":
        return sign_direction(grad)
    return [g * math.sqrt(len(grad)) if norm == "rms" else g for g in unit_direction(grad)]


def add_momentum(momentum: list[float], grad: list[float], decay: float) -> list[float]:
    """μ·g + ∇/‖∇‖₁."""
    length = math.fsum(abs(g) for g in grad)
    return [decay * m + (g / length if length else 0.0) for m, g in zip(momentum, grad, strict=True)]


def project(image_adv: list[float], image: list[float], eps: float, norm: str) -> list[float]:
    """Into the ball around ``image``, then into [0, 1]."""
    delta = [a - x for a, x in zip(image_adv, image, strict=True)]
    if norm == "linf":
        delta = [min(max(d, -eps), eps) for d in delta]
    else:
        size = math.fsum(d * d for d in delta)
        length = math.sqrt(size / len(delta) if norm == "rms" else size)
        delta = [d * eps / length for d in delta] if length > eps else delta
    return [min(max(x + d, 0.0), 1.0) for x, d in zip(image, delta, strict=True)]


class Kept:
    """Of one image the nearest iterate that is fooled enough; before there is one, the one that is fooled most.

    Args:
        image: 3×H×W.
        needed: Number of pixels that have to be fooled.
        norm: linf or l2.
    """

    def __init__(self, image: Tensor, needed: int, norm: str):
        self.image, self.needed, self.norm = image, needed, norm
        self.result, self.fooled, self.distance = image, -1, math.inf

    def offer(self, image_adv: Tensor, fooled: int) -> bool:
        delta = (image_adv - self.image).flatten().tolist()
        distance = math.sqrt(sum(d * d for d in delta)) if self.norm == "l2" else max(abs(d) for d in delta)
        if fooled >= self.needed:
            if distance < self.distance:
                self.result, self.distance = image_adv.clone(), distance
            return True
        if math.isinf(self.distance) and fooled > self.fooled:
            self.result, self.fooled = image_adv.clone(), fooled
        return False


def resized_length(length: int, scale: float) -> int:
    return max(1, math.floor(length * scale + 0.5))


def bilinear_taps(old: int, new: int) -> list[tuple[int, int, float]]:
    """For each new pixel its two sources and the share of the second; pixel centres lie at i + ½."""
    taps = []
    for i in range(new):
        centre = float(max(Fraction(0), Fraction(2 * i + 1, 2) * Fraction(old, new) - Fraction(1, 2)))
        first = min(math.floor(centre), old - 1)
        taps.append((first, min(first + 1, old - 1), centre - first))
    return taps


def resize_bilinear(images: Tensor, height: int, width: int) -> Tensor:
    rows = []
    for top, bottom, down in bilinear_taps(images.shape[-2], height):
        row = []
        for left, right, across in bilinear_taps(images.shape[-1], width):
            upper = images[..., top, left] * (1 - across) + images[..., top, right] * across
            lower = images[..., bottom, left] * (1 - across) + images[..., bottom, right] * across
            row.append(upper * (1 - down) + lower * down)
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


def resize_nearest(targets: Tensor, height: int, width: int) -> Tensor:
    """The label whose pixel contains the new pixel's centre."""
    old_height, old_width = targets.shape[-2:]
    resized = targets.new_empty(*targets.shape[:-2], height, width)
    for i in range(height):
        for j in range(width):
            source_i = math.floor(Fraction(2 * i + 1, 2) * Fraction(old_height, height))
            source_j = math.floor(Fraction(2 * j + 1, 2) * Fraction(old_width, width))
            resized[..., i, j] = targets[..., source_i, source_j]
    return resized


@dataclass
class LiteralRun:
    """What a literal attack did, for comparison step by step."""

    images_adv: list[Tensor] = field(default_factory=list)
    """The T iterates that were differentiated and the result."""
    losses: list[Tensor] = field(default_factory=list)
    """T × B values."""


def literal_attack(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    start: Tensor,
    *,
    loss: Loss,
    eps: float,
    alpha: float,
    steps: int,
    norm: str = "linf",
    targeted: bool = False,
    momentum: float | None = None,
    changes: Sequence[Change] = (),
    smooth: Callable[[Tensor], Tensor] | None = None,
    ahead: Callable[[list[float], list[float]], list[float]] | None = None,
    towards: Callable[[int, list[float]], list[float]] | None = None,
) -> LiteralRun:
    """The whole loop.

    Args:
        targets: They hold NO_LABEL where ignored.
        changes: Of each step what the model sees; the image itself if empty.
        smooth: Of one image's gradient.
        ahead: From an image and its momentum to the point of the gradient.
        towards: From the number of an image and its gradient to the step, in the place of the steepest one.
    """
    run = LiteralRun()
    shape, count = images.shape[1:], len(images)
    memory = [[0.0] * images[0].numel() for _ in range(count)]
    images_adv = start.clone()
    for t in range(1, steps + 1):
        run.images_adv.append(images_adv)
        points = images_adv.clone()
        if ahead is not None:
            for b in range(count):
                point = ahead(images_adv[b].flatten().tolist(), memory[b])
                points[b] = torch.tensor(point, dtype=torch.float64).reshape(shape)
        variable = points.requires_grad_()
        seen, labels = changes[t - 1](variable, targets) if changes else (variable, targets)
        losses = loss(model(seen), labels, t, steps, targeted)
        run.losses.append(torch.stack([value.detach() for value in losses]))
        grad = torch.autograd.grad(sum(losses, torch.zeros((), dtype=torch.float64)), variable)[0]
        moved = []
        for b in range(count):
            own = grad[b] if smooth is None else smooth(grad[b])
            uphill = [-g if targeted else g for g in own.flatten().tolist()]
            if momentum is not None:
                memory[b] = uphill = add_momentum(memory[b], uphill, momentum)
            direction = towards(b, uphill) if towards is not None else steepest(uphill, norm)
            there = [x + alpha * d for x, d in zip(images_adv[b].flatten().tolist(), direction, strict=True)]
            clipped = project(there, images[b].flatten().tolist(), eps, norm)
            moved.append(torch.tensor(clipped, dtype=torch.float64).reshape(shape))
        images_adv = torch.stack(moved)
    run.images_adv.append(images_adv)
    return run
