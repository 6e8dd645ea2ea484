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
    NoiseSource,
    SignStep,
    TranslationInvariantStep,
    iterative,
    transforms,
)
from robustseg.attacks.steps import transfer as transfer_steps

from .comparison_transfer import check_best, check_case

pytestmark = pytest.mark.mutation

Patch = pytest.MonkeyPatch


def no_look_ahead(patch: Patch) -> None:
    patch.delattr(NesterovStep, "look_ahead")


def ahead(patch: Patch, offset: Callable[[NesterovStep, Tensor, AllowedSet], Tensor]) -> None:
    patch.setattr(
        NesterovStep, "look_ahead", lambda self, x, state, allowed: x + offset(self, state["momentum"], allowed)
    )


def look_ahead_by_the_l1_norm(patch: Patch) -> None:
    ahead(patch, lambda rule, g, allowed: float(rule.step_size) * rule.decay * g)


def look_back(patch: Patch) -> None:
    original = NesterovStep.look_ahead
    patch.setattr(NesterovStep, "look_ahead", lambda self, x, state, allowed: 2 * x - original(self, x, state, allowed))


def look_ahead_without_decay(patch: Patch) -> None:
    original = NesterovStep.look_ahead

    def look(self: NesterovStep, x: Tensor, state: dict, allowed: AllowedSet) -> Tensor:
        return x + (original(self, x, state, allowed) - x) / self.decay

    patch.setattr(NesterovStep, "look_ahead", look)


def look_ahead_over_the_batch(patch: Patch) -> None:
    ahead(patch, lambda rule, g, allowed: float(rule.step_size) * rule.decay * g / g.abs().mean().clamp_min(1e-30))


def step_from_the_look_ahead(patch: Patch) -> None:
    original = NesterovStep.update

    def update(self: NesterovStep, x: Tensor, grad: Tensor, loss: Tensor, state: dict, allowed: AllowedSet) -> Tensor:
        return original(self, self.look_ahead(x, state, allowed), grad, loss, state, allowed)

    patch.setattr(NesterovStep, "update", update)


def inner_does_not_look_ahead(patch: Patch) -> None:
    patch.delattr(TranslationInvariantStep, "look_ahead")


def other_weights(patch: Patch, change: Callable[[list[float]], list[float]]) -> None:
    original = transfer_steps._weights
    patch.setattr(transfer_steps, "_weights", lambda *how: change(original(*how)))


def shifted_kernel(patch: Patch) -> None:
    other_weights(patch, lambda weights: [*weights[1:], 0.0])


def squared_kernel(patch: Patch) -> None:
    other_weights(patch, lambda weights: [weight**2 for weight in weights])


def smooth_columns_only(patch: Patch) -> None:
    def smooth(self: TranslationInvariantStep, grad: Tensor) -> Tensor:
        weights = torch.tensor(self._weights, dtype=grad.dtype).view(1, 1, -1, 1).expand(3, -1, -1, -1)
        return F.conv2d(grad, weights, padding="same", groups=3)

    patch.setattr(TranslationInvariantStep, "smooth", smooth)


def smooth_across_channels(patch: Patch) -> None:
    original = TranslationInvariantStep.smooth
    patch.setattr(
        TranslationInvariantStep,
        "smooth",
        lambda self, grad: original(self, grad.mean(1, keepdim=True).expand_as(grad)),
    )


def smooth_after_the_momentum(patch: Patch) -> None:
    """Of what the inner rule remembers, instead of the gradient that it remembers."""

    def update(self: TranslationInvariantStep, x: Tensor, grad: Tensor, loss: Tensor, state: dict, allowed: AllowedSet):
        self.inner.update(x, grad, loss, state, allowed)
        return SignStep.update(self.inner, x, self.smooth(state["momentum"]), loss, state, allowed)

    patch.setattr(TranslationInvariantStep, "update", update)


def reflecting_border(patch: Patch) -> None:
    mirror = type("Functions", (), {"pad": staticmethod(lambda x, sides: F.pad(x, sides, mode="replicate"))})
    patch.setattr(transfer_steps, "F", mirror)


def padding(patch: Patch, change: Callable[[Tensor, tuple, float], Tensor]) -> None:
    functions = {
        "pad": staticmethod(lambda x, sides, value=0: change(x, sides, value)),
        "interpolate": staticmethod(F.interpolate),
    }
    patch.setattr(transforms, "F", type("Functions", (), functions))


def padding_counts(patch: Patch) -> None:
    padding(patch, lambda x, sides, value: F.pad(x, sides, value=0))


def grey_padding(patch: Patch) -> None:
    padding(patch, lambda x, sides, value: F.pad(x, sides, value=0.5 if x.is_floating_point() else value))


def targets_elsewhere(patch: Patch) -> None:
    """Padded on the other side than the image."""

    def change(x: Tensor, sides: tuple, value: float) -> Tensor:
        left, right, top, bottom = sides
        return F.pad(x, sides if x.is_floating_point() else (right, left, bottom, top), value=value)

    padding(patch, change)


def nearest_by_corners(patch: Patch) -> None:
    def interpolate(x: Tensor, size: tuple, mode: str, **how: bool) -> Tensor:
        return F.interpolate(x, size=size, mode=mode.replace("nearest-exact", "nearest"), **how)

    functions = {"pad": staticmethod(F.pad), "interpolate": staticmethod(interpolate)}
    patch.setattr(transforms, "F", type("Functions", (), functions))


def always_diverse(patch: Patch) -> None:
    original = InputDiversity.__call__

    def call(self: InputDiversity, x: Tensor, targets: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        return original(InputDiversity(1.0, self.resize_rate), x, targets, noise)

    patch.setattr(InputDiversity, "__call__", call)


def chain_backwards(patch: Patch) -> None:
    original = Chain.__init__
    patch.setattr(Chain, "__init__", lambda self, transforms: original(self, transforms[::-1]))


def forget_the_second(patch: Patch) -> None:
    original = Chain.__init__
    patch.setattr(Chain, "__init__", lambda self, transforms: original(self, transforms[:1]))


MUTATIONS = [
    (no_look_ahead, "NI", "linf"),
    (no_look_ahead, "everything", "l2"),
    (look_ahead_by_the_l1_norm, "NI", "linf"),
    (look_ahead_by_the_l1_norm, "NI", "l2"),
    (look_back, "NI", "linf"),
    (look_ahead_without_decay, "NI-0.6", "linf"),
    (look_ahead_over_the_batch, "NI", "linf"),
    (step_from_the_look_ahead, "NI", "l2"),
    (inner_does_not_look_ahead, "everything", "linf"),
    (shifted_kernel, "TI", "linf"),
    (squared_kernel, "TI", "linf"),
    (smooth_columns_only, "TI-MI", "linf"),
    (smooth_across_channels, "TI", "l2"),
    (smooth_after_the_momentum, "TI-MI", "linf"),
    (reflecting_border, "TI", "l2"),
    (padding_counts, "DI", "linf"),
    (grey_padding, "DI", "linf"),
    (targets_elsewhere, "M-DI", "linf"),
    (nearest_by_corners, "DI", "linf"),
    (always_diverse, "M-DI", "linf"),
    (chain_backwards, "everything", "linf"),
    (forget_the_second, "everything", "linf"),
]


@pytest.mark.parametrize(("mutate", "name", "norm"), MUTATIONS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_defect_is_found(mutate: Callable, name: str, norm: str, monkeypatch: Patch):
    with monkeypatch.context() as patch:
        mutate(patch)
        with pytest.raises((AssertionError, StopIteration)):
            check_case(name, norm, False)
    check_case(name, norm, False)


@pytest.mark.parametrize("name", ["Nesterov", "translation-invariant Nesterov"])
def test_answer_to_the_look_ahead_taken_for_the_iterates_is_found(name: str, monkeypatch: Patch):
    look_ahead, points = NesterovStep.look_ahead, []

    def remember(self: NesterovStep, x: Tensor, state: dict, allowed: AllowedSet) -> Tensor:
        points.append(look_ahead(self, x, state, allowed))
        return points[-1]

    with monkeypatch.context() as patch:
        patch.setattr(NesterovStep, "look_ahead", remember)
        check_best(name, False)
        patch.setattr(iterative, "logits_only", lambda model, images_adv: model(points[-1]).detach())
        with pytest.raises(AssertionError):
            check_best(name, False)
