"""The transfer boosters once more, literally and slowly. Nothing here imports the package under test."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from .reference import NO_LABEL, Change, literal_attack, resize_bilinear, resize_nearest, resized_length


def kernel_table(kernel: str, size: int, sigma: float | None = None) -> list[list[float]]:
    """The size×size kernel, whose sum is 1."""
    radius = (size - 1) // 2
    width = sigma if sigma is not None else radius / 3
    table = []
    for i in range(-radius, radius + 1):
        row = []
        for j in range(-radius, radius + 1):
            if kernel == "gaussian":
                row.append(math.exp(-(i * i + j * j) / (2 * width * width)) if radius else 1.0)
            elif kernel == "linear":
                row.append((1 - abs(i) / (radius + 1)) * (1 - abs(j) / (radius + 1)))
            else:
                row.append(1.0)
        table.append(row)
    total = math.fsum(value for row in table for value in row)
    return [[value / total for value in row] for row in table]


def smooth(grad: Tensor, table: list[list[float]]) -> Tensor:
    """Each channel of one image (3×H×W) convolved with the kernel; zero beyond the image."""
    channels, height, width = grad.shape
    radius = len(table) // 2
    smoothed = torch.zeros(grad.shape, dtype=torch.float64)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                terms = []
                for i in range(-radius, radius + 1):
                    for j in range(-radius, radius + 1):
                        if 0 <= y + i < height and 0 <= x + j < width:
                            terms.append(table[i + radius][j + radius] * float(grad[c, y + i, x + j]))
                smoothed[c, y, x] = math.fsum(terms)
    return smoothed


def no_change(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return images, targets


def scaled(scale: float) -> Change:
    """Dynamic scale by a given s."""

    def change(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        size = [resized_length(length, scale) for length in images.shape[-2:]]
        return resize_bilinear(images, *size), resize_nearest(targets, *size)

    return change


def diversified(rate: str, draws: Sequence[float]) -> Change:
    """Resized and padded; ``draws`` are three numbers in [0, 1) for the size, the rows above and the columns left."""

    def change(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        size, full = [], []
        for length in images.shape[-2:]:
            other = math.floor(length * Fraction(rate))
            size.append(min(length, other) + math.floor(draws[0] * abs(length - other)))
            full.append(max(length, other))
        top, left = (math.floor(draws[1 + k] * (full[k] - size[k] + 1)) for k in range(2))
        small, labels = resize_bilinear(images, *size), resize_nearest(targets, *size)
        rows, label_rows = [], torch.full((len(images), *full), NO_LABEL)
        for y in range(full[0]):
            row = []
            for x in range(full[1]):
                if 0 <= y - top < size[0] and 0 <= x - left < size[1]:
                    row.append(small[:, :, y - top, x - left])
                    label_rows[:, y, x] = labels[:, y - top, x - left]
                else:
                    row.append(torch.zeros(len(images), 3, dtype=images.dtype))
            rows.append(torch.stack(row, -1))
        return torch.stack(rows, -2), label_rows

    return change


def one_after_the_other(*changes: Change) -> Change:
    def change(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        for single in changes:
            images, targets = single(images, targets)
        return images, targets

    return change


@dataclass(frozen=True)
class Boost:
    """What is added to the iteration, literally."""

    decay: float = 0.0
    nesterov: bool = False
    table: list[list[float]] | None = None
    changes: Sequence[Change] = ()
    """What the model sees at each step; the image itself if empty."""


def look_ahead(image_adv: list[float], memory: list[float], alpha: float, decay: float, norm: str) -> list[float]:
    """x + α·μ·g with the g of gradients that are divided by the mean of their entries' absolute values.

    ``memory`` is that of gradients divided by their L1 norm; the mean is over the entries that have had a gradient.
    """
    reached = sum(1 for m in memory if m != 0)
    scale = reached if norm == "linf" else math.sqrt(reached) * (math.sqrt(len(memory)) if norm == "rms" else 1)
    return [x + alpha * decay * scale * m for x, m in zip(image_adv, memory, strict=True)]


def literal_transfer(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    boost: Boost,
    *,
    alpha: float,
    norm: str,
    **settings: Any,
) -> list[Tensor]:
    """The T iterates, from the clean image on, and the result. ``targets`` hold NO_LABEL where ignored."""
    return literal_attack(
        model,
        images,
        targets,
        images,
        alpha=alpha,
        norm=norm,
        momentum=boost.decay,
        changes=boost.changes,
        smooth=None if boost.table is None else lambda grad: smooth(grad, boost.table),
        ahead=(lambda image, memory: look_ahead(image, memory, alpha, boost.decay, norm)) if boost.nesterov else None,
        **settings,
    ).images_adv


def combined_logits(answers: Sequence[Tensor], weights: Sequence[float], combine: str) -> Tensor:
    """Each pixel's logits of several models (B×C×H×W) as one."""
    total = math.fsum(weights)
    combined = torch.zeros(answers[0].shape, dtype=torch.float64)
    batch, classes, height, width = combined.shape
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                pixels = [answer[b, :, i, j].tolist() for answer in answers]
                for k in range(classes):
                    if combine == "logits":
                        value = math.fsum(w * u[k] for w, u in zip(weights, pixels, strict=True)) / total
                    else:
                        shares = [math.exp(u[k]) / math.fsum(math.exp(v) for v in u) for u in pixels]
                        value = math.log(math.fsum(w * s for w, s in zip(weights, shares, strict=True)) / total)
                    combined[b, k, i, j] = value
    return combined
