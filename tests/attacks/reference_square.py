"""Square Attack once more, literally: one image and one pixel after the other, with given draws.

Nothing here imports the package under test.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import reference

SCHEDULE = [(10, 1), (50, 2), (200, 4), (500, 8), (1000, 16), (2000, 32), (4000, 64), (6000, 128), (8000, 256)]
"""(last of 10 000 candidates, divisor of p); 512 from then on."""


@dataclass
class LiteralSquare:
    """What happened to one image."""

    queries: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Mean cross-entropy of each query."""
    squares: list[tuple[int, int, int, list[int]]] = field(default_factory=list)
    """Top, left, side and the sign of each channel, of each candidate."""
    kept: list[int] = field(default_factory=list)
    """Numbers of the queries that were kept."""
    result: Tensor | None = None


def side_length(candidate: int, steps: int, p_init: float, height: int, width: int) -> int:
    place = math.floor(candidate * 10000 / steps + 1e-9)
    divisor = next((divisor for last, divisor in SCHEDULE if place <= last), 512)
    side = int(round(math.sqrt(p_init / divisor * height * width)))  # noqa: RUF046 - as in the published code
    return min(max(side, 1), height, width)


def painted(image: Tensor, current: Tensor, square: tuple[int, int, int, list[int]], eps: float) -> Tensor:
    top, left, side, signs = square
    candidate = current.clone()
    for c in range(3):
        for i in range(top, top + side):
            for j in range(left, left + side):
                candidate[c, i, j] = min(max(float(image[c, i, j]) + signs[c] * eps, 0.0), 1.0)
    return candidate


def literal_square(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    target: Tensor,
    stripes: Tensor,
    draws: Tensor,
    *,
    eps: float,
    p_init: float,
    start: str,
    objective: str,
    targeted: bool,
) -> LiteralSquare:
    """One image; ``target`` holds NO_LABEL where ignored.

    ``stripes`` are U[0, 1) draws for each channel and column (or row): below ½ means −ε. ``draws`` are one triple for
    each candidate: column, row and colour, of which all that change something are equally likely.
    """
    run = LiteralSquare()
    height, width = target.shape
    valid = reference.valid_pixels(target)
    steps = len(draws) + 1
    current, best = image, -math.inf
    for query in range(steps):
        if query == 0:
            candidate = image.clone()
            for c in range(3):
                for i in range(height):
                    for j in range(width):
                        draw = float(stripes[c].flatten()[j if start == "vertical" else i])
                        value = float(image[c, i, j]) + (-eps if draw < 0.5 else eps)
                        candidate[c, i, j] = min(max(value, 0.0), 1.0)
        else:
            across, down, colour = draws[query - 1].tolist()
            side = side_length(query - 1, steps, p_init, height, width)
            top, left = math.floor(down * (height - side + 1)), math.floor(across * (width - side + 1))
            choices = []
            for number in range(8):
                signs = [1 if number & 1 << c else -1 for c in range(3)]
                if not torch.equal(painted(image, current, (top, left, side, signs), eps), current):
                    choices.append(signs)
            square = (top, left, side, choices[math.floor(colour * len(choices))])
            run.squares.append(square)
            candidate = painted(image, current, square, eps)
        logits = model(candidate.unsqueeze(0))[0].detach()
        losses = [float(reference.pixel_cross_entropy(logits[:, i, j], int(target[i, j]))) for i, j in valid]
        hits = sum(reference.pixel_prediction(logits[:, i, j]) == int(target[i, j]) for i, j in valid)
        worse = math.fsum(losses) / len(valid) if objective == "loss" else -hits
        worse = -worse if targeted else worse
        finished = hits == (len(valid) if targeted else 0)
        run.queries.append(candidate)
        run.losses.append(math.fsum(losses) / len(valid))
        if worse > best or finished:
            current, best = candidate, worse
            run.kept.append(query)
        if finished:
            break
    run.result = current
    return run
