"""The check of DAG against the literal loop must notice defects."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks import DAG
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.minimum_norm import dag
from robustseg.attacks.threat import AllowedSet
from tests.helpers.nets import CLASSES

from .comparison_dag import check_dag
from .defects import after, around, found_by, replaced


def normalise_over_the_batch(original: Callable, values: Tensor, like: Tensor) -> Tensor:
    return original(values.amax(0, keepdim=True) if values.is_floating_point() else values, like)


def keep_the_last(original: Callable, self: DAG, state: Any, *args: Tensor) -> None:
    """Every iterate counts as the best so far."""
    state.most = torch.full_like(state.most, -1)
    original(self, state, *args)


def never_finish(state: Any) -> Any:
    state.enough = state.count + 1
    return state


def forget_the_last_iterate(patch) -> None:
    calls: list[int] = []

    def rank(original: Callable, self: DAG, *args: Any) -> None:
        calls.append(1)
        if len(calls) <= self.steps:
            original(self, *args)

    around(DAG, "_rank", rank)(patch)


def draw_at_each_step(original: Callable, self: DAG, logits: Tensor, state: Any, active: Tensor) -> Tensor:
    if state.wrong is not None:
        state.wrong = (state.wrong + 1) % CLASSES
        state.wrong = torch.where(state.wrong == state.targets, (state.wrong + 1) % CLASSES, state.wrong)
    return original(self, logits, state, active)


test_defect_is_found = found_by(
    check_dag,
    {
        "flip the step": (after(dag, "input_gradient", torch.neg), "random", "targeted"),
        "sign step": (after(dag, "input_gradient", torch.sign), "linf"),
        "divide by the l2 norm": (
            replaced(Tensor, "amax", lambda x, dim=(): x.norm(dim=dim) if x.ndim == 2 and dim else torch.amax(x, dim)),
            "runner-up",
        ),
        "normalise over the batch": (around(dag, "per_image", normalise_over_the_batch), "random"),
        "drop the ignore mask": (
            around(dag, "correct_pixels", lambda original, logits, targets: original(logits, targets.clamp_min(0))),
            *("random", "l2"),
        ),
        "all pixels are active": (
            around(DAG, "_gap", lambda original, self, u, s, _: original(self, u, s, s.targets != IGNORED)),
            *("runner-up", "targeted"),
        ),
        "skip the projection": (replaced(AllowedSet, "project", lambda self, images_adv: images_adv), "linf", "l2"),
        "forget the box": (
            around(Tensor, "clamp", lambda original, x, *limits: x if limits == (0, 1) else original(x, *limits)),
            "random",
        ),
        "keep the last": (around(DAG, "_rank", keep_the_last), "all pixels"),
        "never finish": (after(DAG, "_begin", never_finish), "random", "runner-up"),
        "forget the last iterate": (forget_the_last_iterate, "short"),
        "may draw the true class": (
            replaced(dag, "_wrong_classes", lambda y, classes, n: (n.uniform(torch.empty(y.shape)) * classes).long()),
            "random",
        ),
        "draw at each step": (around(DAG, "_gap", draw_at_each_step), "random"),
        "target as the true class": (
            around(DAG, "_gap", lambda original, self, *a: original(self, *a) * (-1 if self.targeted else 1)),
            "targeted",
        ),
    },
)
