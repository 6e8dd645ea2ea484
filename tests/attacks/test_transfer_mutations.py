"""Defects of the transfer boosters that the checks against the literal loop have to find."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustseg.attacks import (
    AllowedSet,
    Chain,
    InputDiversity,
    NesterovStep,
    SignStep,
    TranslationInvariantStep,
    iterative,
    transforms,
)
from robustseg.attacks.steps import transfer as transfer_steps

from .best import check_best
from .comparison_transfer import check_case
from .defects import Defect, after, around, found_by, replaced


def ahead(offset: Callable[[Tensor], Tensor]) -> Defect:
    """The look-ahead is another function of the momentum, times the decay and the step size."""
    return replaced(
        NesterovStep,
        "look_ahead",
        lambda self, x, state, allowed: x + float(self.step_size) * self.decay * offset(state["momentum"]),
    )


def without_decay(original: Callable, self: NesterovStep, x: Tensor, *rest: object) -> Tensor:
    return x + (original(self, x, *rest) - x) / self.decay


def step_from_the_look_ahead(
    original: Callable, self: NesterovStep, x: Tensor, grad: Tensor, loss: Tensor, state: dict, allowed: AllowedSet
) -> Tensor:
    return original(self, self.look_ahead(x, state, allowed), grad, loss, state, allowed)


def smooth_columns_only(self: TranslationInvariantStep, grad: Tensor) -> Tensor:
    weights = torch.tensor(self._weights, dtype=grad.dtype).view(1, 1, -1, 1).expand(3, -1, -1, -1)
    return F.conv2d(grad, weights, padding="same", groups=3)


def smooth_across_channels(original: Callable, self: TranslationInvariantStep, grad: Tensor) -> Tensor:
    return original(self, grad.mean(1, keepdim=True).expand_as(grad))


def smooth_after_the_momentum(
    self: TranslationInvariantStep, x: Tensor, grad: Tensor, loss: Tensor, state: dict, allowed: AllowedSet
) -> Tensor:
    """Of what the inner rule remembers, instead of the gradient that it remembers."""
    self.inner.update(x, grad, loss, state, allowed)
    return SignStep.update(self.inner, x, self.smooth(state["momentum"]), loss, state, allowed)


def functions(module: object, **changed: Callable) -> Defect:
    """A module that takes some functions of torch.nn.functional for others."""
    known = {"pad": F.pad, "interpolate": F.interpolate, **changed}
    return replaced(module, "F", type("F", (), {name: staticmethod(value) for name, value in known.items()}))


def targets_elsewhere(x: Tensor, sides: tuple, value: float = 0) -> Tensor:
    """Padded on the other side than the image."""
    left, right, top, bottom = sides
    return F.pad(x, sides if x.is_floating_point() else (right, left, bottom, top), value=value)


def nearest_by_corners(x: Tensor, size: tuple, mode: str, **how: bool) -> Tensor:
    return F.interpolate(x, size=size, mode=mode.replace("nearest-exact", "nearest"), **how)


test_defect_is_found = found_by(
    lambda name, norm="linf": check_case(name, norm, False),
    {
        "no look-ahead": (lambda patch: patch.delattr(NesterovStep, "look_ahead"), "NI", ("everything", "l2")),
        "look ahead by the l1 norm": (ahead(lambda g: g), "NI", ("NI", "l2")),
        "look back": (
            around(NesterovStep, "look_ahead", lambda original, self, x, *rest: 2 * x - original(self, x, *rest)),
            "NI",
        ),
        "look ahead without decay": (around(NesterovStep, "look_ahead", without_decay), "NI-0.6"),
        "look ahead over the batch": (ahead(lambda g: g / g.abs().mean().clamp_min(1e-30)), "NI"),
        "step from the look-ahead": (around(NesterovStep, "update", step_from_the_look_ahead), ("NI", "l2")),
        "inner does not look ahead": (
            lambda patch: patch.delattr(TranslationInvariantStep, "look_ahead"),
            "everything",
        ),
        "shifted kernel": (after(transfer_steps, "_weights", lambda weights: [*weights[1:], 0.0]), "TI"),
        "squared kernel": (after(transfer_steps, "_weights", lambda weights: [w**2 for w in weights]), "TI"),
        "smooth columns only": (replaced(TranslationInvariantStep, "smooth", smooth_columns_only), "TI-MI"),
        "smooth across channels": (around(TranslationInvariantStep, "smooth", smooth_across_channels), ("TI", "l2")),
        "smooth after the momentum": (
            replaced(TranslationInvariantStep, "update", smooth_after_the_momentum),
            "TI-MI",
        ),
        "reflecting border": (
            functions(transfer_steps, pad=lambda x, sides: F.pad(x, sides, mode="replicate")),
            ("TI", "l2"),
        ),
        "padding counts": (functions(transforms, pad=lambda x, sides, value=0: F.pad(x, sides, value=0)), "DI"),
        "grey padding": (
            functions(
                transforms,
                pad=lambda x, sides, value=0: F.pad(x, sides, value=0.5 if x.is_floating_point() else value),
            ),
            "DI",
        ),
        "targets elsewhere": (functions(transforms, pad=targets_elsewhere), "M-DI"),
        "nearest by corners": (functions(transforms, interpolate=nearest_by_corners), "DI"),
        "always diverse": (
            around(
                InputDiversity,
                "__call__",
                lambda original, self, *args: original(InputDiversity(1.0, self.resize_rate), *args),
            ),
            "M-DI",
        ),
        "chain backwards": (around(Chain, "__init__", lambda original, self, t: original(self, t[::-1])), "everything"),
        "forget the second": (around(Chain, "__init__", lambda original, self, t: original(self, t[:1])), "everything"),
    },
    (AssertionError, StopIteration),
)


@pytest.mark.mutation
@pytest.mark.parametrize("name", ["Nesterov", "translation-invariant Nesterov"])
def test_answer_to_the_look_ahead_taken_for_the_iterates_is_found(name: str, monkeypatch: pytest.MonkeyPatch):
    points: list[Tensor] = []
    after(NesterovStep, "look_ahead", lambda point: points.append(point) or point)(monkeypatch)
    check_best(name, False)
    monkeypatch.setattr(iterative, "logits_only", lambda model, images_adv: model(points[-1]).detach())
    with pytest.raises(AssertionError):
        check_best(name, False)
