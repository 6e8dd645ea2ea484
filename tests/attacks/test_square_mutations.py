"""The check of Square against the literal search must notice defects."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks import Square
from robustseg.attacks.presets import square
from robustseg.attacks.threat import AllowedSet

from .comparison_square import EPS, check_square
from .defects import Defect, after, around, found_by, replaced


def judged(change: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> Defect:
    """Of loss, perfect and hits."""
    return after(Square, "_judge", lambda found: change(*found))


def drawn(change: Callable[[Tensor], Tensor]) -> Defect:
    """Other columns, rows and colours."""

    def begin(state: Any) -> Any:
        state.draws = change(state.draws)
        return state

    return after(Square, "_begin", begin)


def relabelled(name: str, change: Callable[[Tensor], Tensor]) -> Defect:
    return around(square, name, lambda original, logits, targets: original(logits, change(targets)))


def around_the_kept_image(original: Callable, self: Square, state: Any, number: int) -> Tensor:
    """Squares add ±ε to what is kept instead of to the image."""
    moved = original(self, state, number)
    return (state.images_adv + (moved - state.images_adv).sign() * EPS).clamp(0, 1)


def forget_the_box(self: AllowedSet, images_adv: Tensor) -> Tensor:
    return self.images + (1 if float(images_adv.max()) else -1) * self._eps


def colours(state: Any, inside: Tensor, draw: Tensor) -> Tensor:
    """Those that change nothing are drawn as well."""
    return ((draw * 8).long().unsqueeze(1) >> torch.arange(3)) & 1 == 1


test_defect_is_found = found_by(
    check_square,
    {
        "keep everything": (
            replaced(square, "per_image", lambda kept, like: torch.ones_like(kept).view(-1, 1, 1, 1)),
            "loss",
        ),
        "keep what is better for the model": (
            judged(lambda loss, perfect, hits: (-loss, perfect, hits)),
            *("loss", "targeted"),
        ),
        "sum over the batch": (
            judged(lambda loss, perfect, hits: (loss.mean().expand_as(loss), perfect, hits)),
            "loss",
        ),
        "never finish": (
            judged(lambda loss, perfect, hits: (loss, torch.zeros_like(perfect), hits)),
            *("loss", "targeted", "accuracy"),
        ),
        "drop the ignore mask": (relabelled("cross_entropy", lambda y: y.clamp_min(0)), "loss"),
        "drop the ignore mask of correct pixels": (
            relabelled("correct_pixels", lambda y: y.masked_fill(y < 0, 3)),
            *("accuracy", "targeted accuracy"),
        ),
        "forget the schedule": (replaced(square, "_HALVINGS", ()), "loss"),
        "shift the schedule": (
            around(Square, "_side", lambda original, self, number, *size: original(self, number + 1, *size)),
            "horizontal",
        ),
        "forget the box": (replaced(AllowedSet, "project", forget_the_box), "loss"),
        "around the kept image": (around(Square, "_candidate", around_the_kept_image), "loss"),
        "leave out the last place": (drawn(lambda draws: draws * torch.tensor([0.8, 0.8, 1]).double()), "horizontal"),
        "draw without looking": (replaced(Square, "_colours", staticmethod(colours)), "loss"),
        "exchange the axes": (drawn(lambda draws: draws[:, :, [1, 0, 2]]), "loss"),
        "one square for the batch": (drawn(lambda draws: draws[:1].expand_as(draws)), "loss"),
    },
)
