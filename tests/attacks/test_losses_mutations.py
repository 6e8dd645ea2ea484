"""Defects of the losses made for segmentation, which the comparison with their literal definitions must find."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustseg.attacks import (
    AttackLoss,
    BalancedMaskedCrossEntropy,
    CrossEntropy,
    HoudiniLoss,
    JensenShannon,
    Margin,
    Tsallis,
)
from robustseg.attacks.losses import margin as losses_margin
from robustseg.attacks.losses import masked as losses_masked
from robustseg.attacks.losses import pixelwise as losses

from . import test_losses
from .comparison import check_attack

pytestmark = pytest.mark.mutation

Patch = pytest.MonkeyPatch


def per_pixel(patch: Patch, kind: type[AttackLoss], body: Callable[..., Tensor]) -> None:
    patch.setattr(kind, "per_pixel", body)


def forget_the_mask(patch: Patch) -> None:
    patch.setattr(losses_masked, "open_pixels", lambda logits, targets, targeted: (targets >= 0).double())


def mask_of_the_other_aim(patch: Patch) -> None:
    original = losses_masked.open_pixels
    patch.setattr(losses_masked, "open_pixels", lambda logits, targets, targeted: original(logits, targets, False))


def mask_with_ignored_pixels(patch: Patch) -> None:
    def open_pixels(logits: Tensor, targets: Tensor, targeted: bool) -> Tensor:
        hit = losses.correct_pixels(logits, targets)
        return ~hit if targeted else hit | (targets < 0)

    patch.setattr(losses_masked, "open_pixels", open_pixels)


def drop_the_ignore_mask(patch: Patch) -> None:
    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits, targets.clamp_min(0), reduction="none")

    patch.setattr(losses, "cross_entropy", cross_entropy)


def weights_upside_down(patch: Patch) -> None:
    original = BalancedMaskedCrossEntropy.weights.fget
    patch.setattr(BalancedMaskedCrossEntropy, "weights", property(lambda self: [1 / w for w in original(self)]))


def weights_of_absent_classes_are_zero(patch: Patch) -> None:
    original = BalancedMaskedCrossEntropy.weights.fget

    def weights(self: BalancedMaskedCrossEntropy) -> list[float]:
        return [w * (n > 0) for w, n in zip(original(self), self.class_pixels, strict=True)]

    patch.setattr(BalancedMaskedCrossEntropy, "weights", property(weights))


def shannon_of_the_naive_formula(patch: Patch, sign: float = -1, base: float = 1) -> None:
    def body(self: JensenShannon, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:
        p = logits.softmax(1).gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
        value = math.log(2) + (p * p.log() + sign * (base + p) * (base + p).log()) / 2
        return value * (targets >= 0)

    per_pixel(patch, JensenShannon, body)


def shannon_with_the_wrong_sign(patch: Patch) -> None:
    shannon_of_the_naive_formula(patch, sign=1)


def kullback_leibler(patch: Patch) -> None:
    per_pixel(patch, JensenShannon, CrossEntropy.per_pixel)


def only_the_first_q(patch: Patch) -> None:
    patch.setattr(Tsallis, "q", lambda self, progress: self.q_start)


def sweep_counts_from_one(patch: Patch) -> None:
    patch.setattr(
        Tsallis, "q", lambda self, progress: min(1, self.q_start + (self.q_end - self.q_start) * (progress + 1 / 5))
    )


def sweep_backwards(patch: Patch) -> None:
    patch.setattr(Tsallis, "q", lambda self, progress: self.q_end + (self.q_start - self.q_end) * progress)


def q_instead_of_its_complement(patch: Patch) -> None:
    original = Tsallis.q
    patch.setattr(Tsallis, "q", lambda self, progress: -original(self, progress))


def margin_to_the_largest(patch: Patch) -> None:
    """The true class is its own rival, so that a correct pixel has no margin."""

    def both(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return logits.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1), logits.amax(1)

    patch.setattr(losses_margin, "true_and_runner_up", both)


def swap_true_and_rival(patch: Patch) -> None:
    original = losses_margin.true_and_runner_up
    patch.setattr(losses_margin, "true_and_runner_up", lambda logits, targets: original(logits, targets)[::-1])


def count_ignored_pixels(patch: Patch) -> None:
    """They are taken for pixels of class 0."""
    for kind in (Margin, HoudiniLoss):

        def body(self, logits, targets, progress, targeted, original=kind.per_pixel):
            return original(self, logits, targets.clamp_min(0), progress, targeted)

        per_pixel(patch, kind, body)


def detach_the_length(patch: Patch) -> None:
    def target_cosine(logits: Tensor, targets: Tensor) -> Tensor:
        length = logits.norm(dim=1).detach()
        return logits.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1) / length

    patch.setattr(losses_masked, "target_cosine", target_cosine)


def cosine_of_the_softmax(patch: Patch) -> None:
    original = losses_masked.target_cosine
    patch.setattr(losses_masked, "target_cosine", lambda logits, targets: original(logits.softmax(1), targets))


def normal_of(patch: Patch, function: Callable[[Tensor], Tensor]) -> None:
    patch.setattr(torch.special, "ndtr", function)


def logistic_instead_of_normal(patch: Patch) -> None:
    normal_of(patch, torch.sigmoid)


def error_function_without_its_scale(patch: Patch) -> None:
    normal_of(patch, lambda x: torch.erfc(-x) / 2)


def task_loss_of_ignored_pixels(patch: Patch) -> None:
    original = losses_margin.mean_iou
    patch.setattr(
        losses_margin, "mean_iou", lambda shown, targets, classes: original(shown, targets.clamp_min(0), classes)
    )


def iou_over_all_classes(patch: Patch) -> None:
    """Absent classes count as 0."""
    original = losses_margin.mean_iou

    def mean_iou(shown: Tensor, targets: Tensor, classes: int) -> Tensor:
        present = [len({*t[t >= 0].tolist(), *s[t >= 0].tolist()}) for s, t in zip(shown, targets, strict=True)]
        return original(shown, targets, classes) * torch.tensor(present) / (classes + 1)

    patch.setattr(losses_margin, "mean_iou", mean_iou)


MUTATIONS: list[tuple[Callable[[Patch], None], str, bool]] = [
    (forget_the_mask, "MCE", False),
    (forget_the_mask, "MSL", True),
    (mask_of_the_other_aim, "MCE", True),
    (mask_of_the_other_aim, "MCE-Bal", True),
    (mask_of_the_other_aim, "MSL", True),
    (mask_with_ignored_pixels, "MSL", False),
    (mask_with_ignored_pixels, "MSL", True),
    (drop_the_ignore_mask, "JS", False),
    (drop_the_ignore_mask, "Tsallis", True),
    (weights_upside_down, "MCE-Bal", False),
    (weights_of_absent_classes_are_zero, "MCE-Bal", False),
    (shannon_with_the_wrong_sign, "JS", False),
    (kullback_leibler, "JS", False),
    (only_the_first_q, "Tsallis", False),
    (sweep_counts_from_one, "Tsallis", False),
    (sweep_backwards, "Tsallis", False),
    (q_instead_of_its_complement, "Tsallis", False),
    (margin_to_the_largest, "Margin", False),
    (margin_to_the_largest, "Houdini", False),
    (swap_true_and_rival, "Margin", False),
    (swap_true_and_rival, "Houdini", False),
    (count_ignored_pixels, "Margin", False),
    (count_ignored_pixels, "Houdini", False),
    (count_ignored_pixels, "Houdini-iou", True),
    (detach_the_length, "MSL", False),
    (detach_the_length, "LogitCosine", True),
    (cosine_of_the_softmax, "LogitCosine", False),
    (logistic_instead_of_normal, "Houdini", False),
    (logistic_instead_of_normal, "Houdini-predicted", True),
    (error_function_without_its_scale, "Houdini", False),
    (task_loss_of_ignored_pixels, "Houdini-iou", True),
    (iou_over_all_classes, "Houdini-iou", True),
]


@pytest.mark.parametrize(
    ("mutate", "name", "targeted"), MUTATIONS, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_defect_is_found(mutate: Callable[[Patch], None], name: str, targeted: bool, monkeypatch: Patch):
    with monkeypatch.context() as patch:
        mutate(patch)
        with pytest.raises(AssertionError):
            test_losses.check_loss(name, targeted)
    test_losses.check_loss(name, targeted)


@pytest.mark.parametrize(
    ("mutate", "name", "targeted"),
    [
        (sweep_backwards, "TsallisPGD", False),
        (only_the_first_q, "TsallisPGD", True),
        (swap_true_and_rival, "Houdini", False),
        (logistic_instead_of_normal, "Houdini", True),
        (task_loss_of_ignored_pixels, "Houdini-iou", True),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_defect_is_found_in_the_whole_attack(
    mutate: Callable[[Patch], None], name: str, targeted: bool, monkeypatch: Patch
):
    with monkeypatch.context() as patch:
        mutate(patch)
        with pytest.raises(AssertionError):
            check_attack(name, "linf", targeted)


def test_naive_formulas_would_not_pass_the_limits(monkeypatch: Patch):
    """What the tests of the limits are for: the formulas as they are written."""
    with monkeypatch.context() as patch:
        shannon_of_the_naive_formula(patch)
        test_losses.check_loss("JS", False)
        with pytest.raises(AssertionError):
            test_losses.test_extreme_logits("JS", False)
    with monkeypatch.context() as patch:
        patch.setattr(losses, "_one_minus_exp", lambda x: 1 - x.exp())
        test_losses.check_loss("Tsallis", False)
        with pytest.raises(AssertionError):
            test_losses.test_tsallis_near_the_cross_entropy_and_near_zero(2.0, 1e-6)
    with monkeypatch.context() as patch:
        patch.setattr(losses, "_one_minus_exp", lambda x: -torch.expm1(x))
        test_losses.check_loss("Tsallis", False)
        with pytest.raises(AssertionError):
            test_losses.test_tsallis_near_the_cross_entropy_and_near_zero(-12.0, 3.0)
