"""DAG against the literal loop: the check that must pass, and that every mutation must fail."""

import math
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks import DAG, NoiseSource
from tests.helpers.nets import CLASSES, tiny_batch, tiny_net

from . import reference
from .comparison import close
from .reference_dag import literal_dag


class Recorded(NoiseSource):
    """Keeps what was drawn."""

    def __init__(self) -> None:
        super().__init__(6, None, torch.device("cpu"))
        self.drawn: list[Tensor] = []

    def uniform(self, like: Tensor) -> Tensor:
        self.drawn.append(super().uniform(like))
        return self.drawn[-1]


SETTINGS: dict[str, dict[str, Any]] = {
    "random": {},
    "runner-up": {"aim": "runner-up"},
    "linf": {"eps": 0.1},
    "l2": {"eps": 0.5, "norm": "l2"},
    "runner-up l2": {"eps": 0.5, "norm": "l2", "aim": "runner-up"},
    "targeted": {"targeted": True},
    "targeted linf": {"eps": 0.1, "targeted": True},
    "all pixels": {"success": 1.0, "aim": "runner-up"},
    "short": {"steps": 3},
}


def batch() -> tuple[Tensor, Tensor]:
    """Image 1 has three valid pixels, so that it is finished early."""
    images, targets = tiny_batch(batch=3)
    keep = torch.zeros_like(targets[1], dtype=torch.bool)
    keep[1, 2] = keep[3, 4] = keep[5, 0] = True
    targets[1] = torch.where(keep, tiny_net()(images[1:2]).argmax(1)[0], 255)
    return images, targets


NET, BATCH = tiny_net(), batch()


def drawn_classes(draws: Tensor, targets: Tensor) -> Tensor:
    classes = torch.zeros_like(targets)
    for b, i, j in torch.cartesian_prod(*map(torch.arange, targets.shape)).tolist():
        others = [k for k in range(CLASSES) if k != int(targets[b, i, j])]
        classes[b, i, j] = others[math.floor(float(draws[b, i, j]) * (CLASSES - 1))]
    return classes


def check_dag(name: str) -> list[bool]:
    """Every iterate, every loss and the result agree with the literal loop; for each image, whether it was finished."""
    settings = {"step_size": 0.03, "steps": 14, "success": 0.83, **SETTINGS[name]}
    model, (images, targets) = NET, BATCH
    if settings.get("targeted"):
        targets = torch.where(targets == 255, 255, (targets + 1) % CLASSES)
    noise, seen = Recorded(), []
    attack = DAG(**settings)
    result = attack(model, images, targets, generator=noise, on_step=seen.append)
    mapped = targets.masked_fill(targets == 255, reference.NO_LABEL)
    wrong = drawn_classes(noise.drawn[0], mapped) if noise.drawn else None
    assert (wrong is None) == (settings.get("aim") == "runner-up" or bool(settings.get("targeted")))
    finished = []
    for b in range(len(images)):
        run = literal_dag(
            model,
            images[b],
            mapped[b],
            wrong=None if wrong is None else wrong[b],
            gamma=0.03,
            steps=settings["steps"],
            success=settings["success"],
            targeted=attack.targeted,
            eps=settings.get("eps"),
            norm=attack.norm,
        )
        finished.append(len(run.images_adv) <= settings["steps"])
        for step in seen:
            if b not in step.rows.tolist():
                assert step.step > 10
                assert finished[b]
                continue
            place = step.rows.tolist().index(b)
            # A finished image that has not left yet stays where it is.
            t = min(step.step, len(run.images_adv)) - 1
            where = f"{name}, image {b}, step {step.step}: "
            close(step.images_adv[place], run.images_adv[t], where + "iterate")
            close(step.loss[place], torch.tensor(run.losses[t], dtype=torch.float64), where + "loss")
        assert run.result is not None
        close(result[b], run.result, f"{name}, image {b}: result")
    return finished
