"""Projected Adam once more, literally and slowly: float64 numbers, one coordinate after the other.

Nothing here imports the package under test.
"""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .reference import LiteralRun, literal_attack, steepest

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
    model: Callable[[Tensor], Tensor], images: Tensor, *args: Tensor, norm: str = "linf", **settings: Any
) -> LiteralRun:
    """The whole loop; arguments as for the other literal loop, with losses that are sums over pixels."""
    memory = [[Coordinate() for _ in range(images[0].numel())] for _ in images]

    def towards(b: int, uphill: list[float]) -> list[float]:
        direction = [coordinate.direction(g) for coordinate, g in zip(memory[b], uphill, strict=True)]
        return direction if norm == "linf" else steepest(direction, norm)

    return literal_attack(model, images, *args, norm=norm, towards=towards, **settings)
