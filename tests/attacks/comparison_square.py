"""Square against the literal search: the check that must pass, and that every mutation must fail."""

import functools
import math
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks import NoiseSource, Square
from tests.helpers.nets import HEIGHT, WIDTH, tiny_batch, tiny_net

from . import reference
from .comparison import close
from .reference_square import LiteralSquare, literal_square

EPS, STEPS = 0.06, 45


def fixed_noise() -> NoiseSource:
    return NoiseSource(3, None, torch.device("cpu"))


SETTINGS: dict[str, dict[str, Any]] = {
    "loss": {},
    "accuracy": {"objective": "accuracy"},
    "horizontal": {"start": "horizontal", "p_init": 0.3},
    "targeted": {"targeted": True},
    "targeted accuracy": {"targeted": True, "objective": "accuracy"},
}


def batch(targeted: bool = False) -> tuple[Tensor, Tensor]:
    """Of image 1 one pixel near the boundary is valid, so that it is finished early."""
    images, targets = tiny_batch(batch=3)
    top = tiny_net()(images[1:2]).topk(2, 1)
    near = (top.values[0, 0] - top.values[0, 1]).flatten().argsort()[3]
    targets[1] = 255
    targets[1].view(-1)[near] = top.indices[0, int(targeted)].flatten()[near]
    return images, targets


@functools.cache
def literal_runs(name: str) -> list[LiteralSquare]:
    options = {"p_init": 0.8, "start": "vertical", "objective": "loss", "targeted": False, **SETTINGS[name]}
    return run_literally(*batch(options["targeted"]), STEPS, options)


def run_literally(images: Tensor, targets: Tensor, steps: int, options: dict[str, Any]) -> list[LiteralSquare]:
    noise = fixed_noise()
    size = (1, WIDTH) if options["start"] == "vertical" else (HEIGHT, 1)
    stripes = noise.uniform(torch.empty(len(images), 3, *size, dtype=torch.float64))
    draws = noise.uniform(torch.empty(len(images), steps - 1, 3, dtype=torch.float64))
    mapped = targets.masked_fill(targets == 255, reference.NO_LABEL)
    return [
        literal_square(tiny_net(), image, target, stripe, draw, eps=EPS, **options)
        for image, target, stripe, draw in zip(images, mapped, stripes, draws, strict=True)
    ]


def check_square(name: str) -> None:
    """Every query, every loss and the result agree with the literal search on the same draws."""
    settings, seen = SETTINGS[name], []
    images, targets = batch(settings.get("targeted", False))
    attack = Square(eps=EPS, steps=STEPS, **settings)
    result = attack(tiny_net(), images, targets, generator=fixed_noise(), on_step=seen.append)
    for b, run in enumerate(literal_runs(name)):
        shown = [(step, step.rows.tolist().index(b)) for step in seen if b in step.rows.tolist()]
        # A finished image leaves at the next look.
        assert len(shown) == min(STEPS, math.ceil(len(run.queries) / 10) * 10)
        for (step, place), query, loss in zip(shown, run.queries, run.losses, strict=False):
            where = f"{name}, image {b}, query {step.step}: "
            close(step.images_adv[place], query, where + "candidate")
            close(step.loss[place], torch.tensor(loss, dtype=torch.float64), where + "loss")
        assert run.result is not None
        close(result[b], run.result, f"{name}, image {b}: result")
