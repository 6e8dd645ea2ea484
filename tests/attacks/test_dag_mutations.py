"""The check of DAG against the literal loop must notice defects."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from robustseg.attacks import DAG, correct_pixels
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.minimum_norm import dag
from robustseg.attacks.threat import AllowedSet
from tests.helpers.nets import CLASSES

from .comparison_dag import check_dag

pytestmark = pytest.mark.mutation

Patch = pytest.MonkeyPatch


def flip_the_step(patch: Patch) -> None:
    original = dag.input_gradient
    patch.setattr(dag, "input_gradient", lambda value, point: -original(value, point))


def sign_step(patch: Patch) -> None:
    original = dag.input_gradient
    patch.setattr(dag, "input_gradient", lambda value, point: original(value, point).sign())


def divide_by_the_l2_norm(patch: Patch) -> None:
    patch.setattr(Tensor, "amax", lambda self, dim: self.norm(dim=dim) if self.ndim == 2 else torch.amax(self, dim))


def normalise_over_the_batch(patch: Patch) -> None:
    original = dag.per_image

    def per_image(values: Tensor, like: Tensor) -> Tensor:
        return original(values.amax(0, keepdim=True) if values.is_floating_point() else values, like)

    patch.setattr(dag, "per_image", per_image)


def drop_the_ignore_mask(patch: Patch) -> None:
    patch.setattr(dag, "correct_pixels", lambda logits, targets: correct_pixels(logits, targets.clamp_min(0)))


def all_pixels_are_active(patch: Patch) -> None:
    original = DAG._gap
    patch.setattr(
        DAG, "_gap", lambda self, logits, state, active: original(self, logits, state, state.targets != IGNORED)
    )


def skip_the_projection(patch: Patch) -> None:
    patch.setattr(AllowedSet, "project", lambda self, images_adv: images_adv)


def forget_the_box(patch: Patch) -> None:
    original = Tensor.clamp
    patch.setattr(Tensor, "clamp", lambda self, *limits: self if limits == (0, 1) else original(self, *limits))


def keep_the_last(patch: Patch) -> None:
    """Every iterate counts as the best so far."""
    original = DAG._rank

    def rank(self: DAG, state: Any, images_adv: Tensor, hits: Tensor) -> None:
        state.most = torch.full_like(state.most, -1)
        original(self, state, images_adv, hits)

    patch.setattr(DAG, "_rank", rank)


def never_finish(patch: Patch) -> None:
    original = DAG._begin

    def begin(self: DAG, *args: Any) -> Any:
        state = original(self, *args)
        state.enough = state.count + 1
        return state

    patch.setattr(DAG, "_begin", begin)


def forget_the_last_iterate(patch: Patch) -> None:
    original, calls = DAG._rank, []

    def rank(self: DAG, *args: Any) -> None:
        calls.append(1)
        if len(calls) <= self.steps:
            original(self, *args)

    patch.setattr(DAG, "_rank", rank)


def may_draw_the_true_class(patch: Patch) -> None:
    patch.setattr(
        dag,
        "_wrong_classes",
        lambda targets, classes, noise: (noise.uniform(torch.empty(targets.shape)) * classes).long(),
    )


def draw_at_each_step(patch: Patch) -> None:
    original = DAG._gap

    def gap(self: DAG, logits: Tensor, state: Any, active: Tensor) -> Tensor:
        if state.wrong is not None:
            state.wrong = (state.wrong + 1) % CLASSES
            state.wrong = torch.where(state.wrong == state.targets, (state.wrong + 1) % CLASSES, state.wrong)
        return original(self, logits, state, active)

    patch.setattr(DAG, "_gap", gap)


def target_as_the_true_class(patch: Patch) -> None:
    original = DAG._gap
    patch.setattr(DAG, "_gap", lambda self, *args: -original(self, *args) if self.targeted else original(self, *args))


MUTATIONS: list[tuple[Callable[[Patch], None], str]] = [
    (flip_the_step, "random"),
    (flip_the_step, "targeted"),
    (sign_step, "linf"),
    (divide_by_the_l2_norm, "runner-up"),
    (normalise_over_the_batch, "random"),
    (drop_the_ignore_mask, "random"),
    (drop_the_ignore_mask, "l2"),
    (all_pixels_are_active, "runner-up"),
    (all_pixels_are_active, "targeted"),
    (skip_the_projection, "linf"),
    (skip_the_projection, "l2"),
    (forget_the_box, "random"),
    (keep_the_last, "all pixels"),
    (never_finish, "random"),
    (never_finish, "runner-up"),
    (forget_the_last_iterate, "short"),
    (may_draw_the_true_class, "random"),
    (draw_at_each_step, "random"),
    (target_as_the_true_class, "targeted"),
]


@pytest.mark.parametrize(("mutate", "name"), MUTATIONS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_defect_is_found(mutate: Callable[[Patch], None], name: str, monkeypatch: Patch):
    with monkeypatch.context() as patch:
        mutate(patch)
        with pytest.raises(AssertionError):
            check_dag(name)
    check_dag(name)
