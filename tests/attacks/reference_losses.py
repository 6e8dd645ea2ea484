"""Literal losses of segmentation attacks: float64, one pixel after the other, from the formulas alone.

Nothing here imports the package under test. Gradients are autograd's of the literal value, but for Houdini's, which is
defined by its gradient.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from .reference import Loss, best_other, pixel_cross_entropy, pixel_prediction, valid_pixels

PixelLoss = Callable[[Tensor, int, float, bool], Tensor | float]
"""(C logits of a pixel, its label, (t − 1)/T, targeted) -> its loss."""


def summed(pixel_loss: PixelLoss) -> Loss:
    """The sum of a pixel's loss over the valid pixels of each image."""

    def loss(logits: Tensor, targets: Tensor, t: int, steps: int, targeted: bool) -> list[Tensor]:
        losses = []
        for u, y in zip(logits, targets, strict=True):
            total = (u * 0).sum()
            for i, j in valid_pixels(y):
                total = total + pixel_loss(u[:, i, j], int(y[i, j]), (t - 1) / steps, targeted)
            losses.append(total)
        return losses

    return loss


def is_open(logits: Tensor, label: int, targeted: bool) -> bool:
    """Correct pixels if untargeted, pixels without the target if targeted."""
    return (pixel_prediction(logits) == label) != targeted


def pixel_probability(logits: Tensor, label: int) -> Tensor:
    return torch.exp(-pixel_cross_entropy(logits, label))


def mce(logits: Tensor, label: int, progress: float, targeted: bool) -> Tensor | float:
    return pixel_cross_entropy(logits, label) if is_open(logits, label, targeted) else 0.0


def balanced(class_pixels: Sequence[int]) -> PixelLoss:
    """MCE times 1/N_y, over the mean of 1/N of the classes that occur; the rarest stands for those that do not."""
    occurring = [Fraction(1, count) for count in class_pixels if count]
    mean = sum(occurring) / len(occurring)
    weights = [(Fraction(1, count) if count else max(occurring)) / mean for count in class_pixels]

    def loss(logits: Tensor, label: int, progress: float, targeted: bool) -> Tensor | float:
        return float(weights[label]) * mce(logits, label, progress, targeted)

    return loss


def jensen_shannon(logits: Tensor, label: int, progress: float, targeted: bool) -> Tensor:
    """½·KL(p, m) + ½·KL(onehot, m) with m = (p + onehot)/2, class by class."""
    total = torch.zeros((), dtype=torch.float64)
    for k in range(len(logits)):
        p, onehot = pixel_probability(logits, k), float(k == label)
        middle = (p + onehot) / 2
        total = total + p * torch.log(p / middle) / 2
        if onehot:
            total = total - torch.log(middle) / 2
    return total


def tsallis(q_start: float = -2.0, q_end: float = 1.0) -> PixelLoss:
    def loss(logits: Tensor, label: int, progress: float, targeted: bool) -> Tensor:
        q = (1 - progress) * q_start + progress * q_end
        if q == 1:
            return pixel_cross_entropy(logits, label)
        return (1 - pixel_probability(logits, label) ** (1 - q)) / (1 - q)

    return loss


def margin(logits: Tensor, label: int, progress: float, targeted: bool) -> Tensor:
    return logits[best_other(logits, label)] - logits[label]


def pixel_logit_cosine(logits: Tensor, label: int) -> Tensor:
    squares = torch.zeros((), dtype=torch.float64)
    for k in range(len(logits)):
        squares = squares + logits[k] * logits[k]
    return logits[label] / torch.sqrt(squares)


def msl(logits: Tensor, label: int, progress: float, targeted: bool) -> Tensor | float:
    return -pixel_logit_cosine(logits, label) if is_open(logits, label, targeted) else 0.0


def logit_cosine(logits: Tensor, label: int, progress: float, targeted: bool) -> Tensor:
    return 1 - pixel_logit_cosine(logits, label)


class _Houdini(torch.autograd.Function):
    """Value and gradient as they are defined, with numbers; d = u_y − u_ŷ."""

    @staticmethod
    def forward(ctx, logits: Tensor, label: int, rival: int, task_loss: float) -> Tensor:
        d = float(logits[label]) - float(logits[rival])
        slope = torch.zeros_like(logits)
        if rival != label:
            slope[label] = -math.exp(-d * d / 2) / math.sqrt(2 * math.pi) * task_loss
            slope[rival] = -slope[label]
        ctx.slope = slope
        return torch.tensor(math.erfc(d / math.sqrt(2)) / 2 * task_loss, dtype=torch.float64)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad * ctx.slope, None, None, None


def image_mean_iou(shown: dict[tuple[int, int], int], wanted: dict[tuple[int, int], int]) -> float:
    """Maps from pixels to classes."""
    scores = []
    for k in {*shown.values(), *wanted.values()}:
        one, other = ({pixel for pixel, label in labels.items() if label == k} for labels in (shown, wanted))
        scores.append(len(one & other) / len(one | other))
    return sum(scores) / len(scores) if scores else 1.0


def houdini(rival: str = "auto", task_loss: str = "error") -> Loss:
    def loss(logits: Tensor, targets: Tensor, t: int, steps: int, targeted: bool) -> list[Tensor]:
        kind = rival if rival != "auto" else ("predicted" if targeted else "runner-up")
        losses = []
        for u, y in zip(logits, targets, strict=True):
            wanted = {(i, j): int(y[i, j]) for i, j in valid_pixels(y)}
            choose = {"predicted": lambda v, label: pixel_prediction(v), "runner-up": best_other}[kind]
            rivals = {(i, j): choose(u[:, i, j], label) for (i, j), label in wanted.items()}
            image_loss = 1 - image_mean_iou(rivals, wanted)
            total = (u * 0).sum()
            for (i, j), label in wanted.items():
                one = rivals[i, j]
                task = image_loss if task_loss == "iou" else float(one != label)
                total = total + _Houdini.apply(u[:, i, j], label, one, task)
            losses.append(total)
        return losses

    return loss
