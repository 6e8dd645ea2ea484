"""Projected Adam once more, literally and slowly: float64 numbers, one coordinate after the other.

Nothing here imports the package under test.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .reference import LiteralRun, Loss, project, steepest

DECAYS = (0.9, 0.999)
ADDED = 1e-8


class Coordinate:
    """Adam with AMSGrad of one number."""

    def __init__(self) -> None:
        self.taken = 0
        self.mean = 0.0
        self.square = 0.0
        self.squares = [0.0]

    def direction(self, grad: float) -> float:
        first, second = DECAYS
        self.taken += 1
        self.mean = first * self.mean + (1 - first) * grad
        self.square = second * self.square + (1 - second) * grad * grad
        self.squares.append(self.square)
        mean = self.mean / (1 - first**self.taken)
        square = max(self.squares) / (1 - second**self.taken)
        return mean / (math.sqrt(square) + ADDED)


def literal_padam(
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
    **unused: object,
) -> LiteralRun:
    """The whole loop, of sums over the pixels of each image; arguments as for the other literal loop."""
    run = LiteralRun()
    memory = [[Coordinate() for _ in range(images[0].numel())] for _ in images]
    images_adv = start.clone()
    for t in range(1, steps + 1):
        run.images_adv.append(images_adv)
        variable = images_adv.clone().requires_grad_()
        losses = loss(model(variable), targets, t, steps, targeted)
        run.losses.append(torch.stack([value.detach() for value in losses]))
        grad = torch.autograd.grad(sum(losses, torch.zeros((), dtype=torch.float64)), variable)[0]
        moved = []
        for b in range(len(images)):
            uphill = [-g if targeted else g for g in grad[b].flatten().tolist()]
            direction = [coordinate.direction(g) for coordinate, g in zip(memory[b], uphill, strict=True)]
            direction = direction if norm == "linf" else steepest(direction, norm)
            there = [x + alpha * d for x, d in zip(images_adv[b].flatten().tolist(), direction, strict=True)]
            clipped = project(there, images[b].flatten().tolist(), eps, norm)
            moved.append(torch.tensor(clipped, dtype=torch.float64).reshape(images.shape[1:]))
        images_adv = torch.stack(moved)
    run.images_adv.append(images_adv)
    return run
