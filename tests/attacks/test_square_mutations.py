"""The check of Square against the literal search must notice defects."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from robustseg.attacks import Square, correct_pixels
from robustseg.attacks.losses.base import cross_entropy
from robustseg.attacks.presets import square
from robustseg.attacks.threat import AllowedSet

from .comparison_square import EPS, check_square

pytestmark = pytest.mark.mutation

Patch = pytest.MonkeyPatch


def keep_everything(patch: Patch) -> None:
    patch.setattr(square, "per_image", lambda kept, like: torch.ones_like(kept).view(-1, 1, 1, 1))


def keep_what_is_better_for_the_model(patch: Patch) -> None:
    original = Square._judge

    def judge(self: Square, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        loss, perfect, hits = original(self, *args)
        return -loss, perfect, hits

    patch.setattr(Square, "_judge", judge)


def sum_over_the_batch(patch: Patch) -> None:
    original = Square._judge

    def judge(self: Square, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        loss, perfect, hits = original(self, *args)
        return loss.mean().expand_as(loss), perfect, hits

    patch.setattr(Square, "_judge", judge)


def never_finish(patch: Patch) -> None:
    original = Square._judge

    def judge(self: Square, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        loss, perfect, hits = original(self, *args)
        return loss, torch.zeros_like(perfect), hits

    patch.setattr(Square, "_judge", judge)


def drop_the_ignore_mask(patch: Patch) -> None:
    patch.setattr(square, "cross_entropy", lambda logits, targets: cross_entropy(logits, targets.clamp_min(0)))


def drop_the_ignore_mask_of_correct_pixels(patch: Patch) -> None:
    def with_a_label(logits: Tensor, targets: Tensor) -> Tensor:
        return correct_pixels(logits, targets.masked_fill(targets < 0, 3))

    patch.setattr(square, "correct_pixels", with_a_label)


def forget_the_schedule(patch: Patch) -> None:
    patch.setattr(square, "_HALVINGS", ())


def shift_the_schedule(patch: Patch) -> None:
    original = Square._side
    patch.setattr(Square, "_side", lambda self, number, *size: original(self, number + 1, *size))


def forget_the_box(patch: Patch) -> None:
    def project(self: AllowedSet, images_adv: Tensor) -> Tensor:
        return self.images + (1 if float(images_adv.max()) else -1) * self._eps

    patch.setattr(AllowedSet, "project", project)


def around_the_kept_image(patch: Patch) -> None:
    """Squares add ±ε to what is kept instead of to the image."""
    original = Square._candidate

    def candidate(self: Square, state: Any, number: int) -> Tensor:
        moved = original(self, state, number)
        return (state.images_adv + (moved - state.images_adv).sign() * EPS).clamp(0, 1)

    patch.setattr(Square, "_candidate", candidate)


def leave_out_the_last_place(patch: Patch) -> None:
    original = Square._begin

    def begin(self: Square, *args: Any) -> Any:
        state = original(self, *args)
        state.draws = state.draws * torch.tensor([0.8, 0.8, 1.0], dtype=torch.float64)
        return state

    patch.setattr(Square, "_begin", begin)


def draw_without_looking(patch: Patch) -> None:
    """Colours that change nothing are drawn as well."""

    def colours(state: Any, inside: Tensor, draw: Tensor) -> Tensor:
        return ((draw * 8).long().unsqueeze(1) >> torch.arange(3)) & 1 == 1

    patch.setattr(Square, "_colours", staticmethod(colours))


def exchange_the_axes(patch: Patch) -> None:
    original = Square._begin

    def begin(self: Square, *args: Any) -> Any:
        state = original(self, *args)
        state.draws = state.draws[:, :, [1, 0, 2]]
        return state

    patch.setattr(Square, "_begin", begin)


def one_square_for_the_batch(patch: Patch) -> None:
    original = Square._begin

    def begin(self: Square, *args: Any) -> Any:
        state = original(self, *args)
        state.draws = state.draws[:1].expand_as(state.draws)
        return state

    patch.setattr(Square, "_begin", begin)


MUTATIONS: list[tuple[Callable[[Patch], None], str]] = [
    (keep_everything, "loss"),
    (keep_what_is_better_for_the_model, "loss"),
    (keep_what_is_better_for_the_model, "targeted"),
    (sum_over_the_batch, "loss"),
    (never_finish, "loss"),
    (never_finish, "targeted"),
    (never_finish, "accuracy"),
    (drop_the_ignore_mask, "loss"),
    (drop_the_ignore_mask_of_correct_pixels, "accuracy"),
    (drop_the_ignore_mask_of_correct_pixels, "targeted accuracy"),
    (forget_the_schedule, "loss"),
    (shift_the_schedule, "horizontal"),
    (forget_the_box, "loss"),
    (around_the_kept_image, "loss"),
    (leave_out_the_last_place, "horizontal"),
    (draw_without_looking, "loss"),
    (exchange_the_axes, "loss"),
    (one_square_for_the_batch, "loss"),
]


@pytest.mark.parametrize(("mutate", "name"), MUTATIONS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_defect_is_found(mutate: Callable[[Patch], None], name: str, monkeypatch: Patch):
    with monkeypatch.context() as patch:
        mutate(patch)
        with pytest.raises(AssertionError):
            check_square(name)
