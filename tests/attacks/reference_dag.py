"""DAG once more, literally: one image and one pixel after the other. Nothing here imports the package under test."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import reference


@dataclass
class LiteralDAG:
    """What happened to one image."""

    images_adv: list[Tensor] = field(default_factory=list)
    """The iterates, the last one included."""
    losses: list[float] = field(default_factory=list)
    """Σ_T (u_l' − u_y) at each of them."""
    fooled: list[int] = field(default_factory=list)
    """Fooled pixels of each of them."""
    result: Tensor | None = None


def literal_dag(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    target: Tensor,
    *,
    wrong: Tensor | None,
    gamma: float,
    steps: int,
    success: float,
    targeted: bool = False,
    eps: float | None = None,
    norm: str = "linf",
) -> LiteralDAG:
    """One image; ``target`` holds NO_LABEL where ignored, ``wrong`` the classes aimed at (None: the runner-up)."""
    run = LiteralDAG()
    valid = reference.valid_pixels(target)
    current, best = image.clone(), -1
    for step in range(steps + 1):
        variable = current.clone().requires_grad_()
        logits = model(variable.unsqueeze(0))[0]
        total = (logits * 0).sum()
        fooled = 0
        for i, j in valid:
            label = int(target[i, j])
            predicted = reference.pixel_prediction(logits[:, i, j])
            if targeted and predicted != label:
                total = total + logits[label, i, j] - logits[predicted, i, j]
            elif targeted:
                fooled += 1
            elif predicted == label:
                aim = reference.best_other(logits[:, i, j], label) if wrong is None else int(wrong[i, j])
                total = total + logits[aim, i, j] - logits[label, i, j]
            else:
                fooled += 1
        run.images_adv.append(current)
        run.losses.append(float(total.detach()))
        run.fooled.append(fooled)
        if fooled > best:
            best, run.result = fooled, current
        if fooled >= success * len(valid) - 1e-9 or step == steps:
            return run
        r = torch.autograd.grad(total, variable)[0].flatten().tolist()
        largest = max(abs(value) for value in r)
        moved = [x + gamma * value / largest for x, value in zip(current.flatten().tolist(), r, strict=True)]
        if eps is None:
            clipped = [min(max(x, 0.0), 1.0) for x in moved]
        else:
            clipped = reference.project(moved, image.flatten().tolist(), eps, norm)
        current = torch.tensor(clipped, dtype=torch.float64).reshape(image.shape)
    return run
