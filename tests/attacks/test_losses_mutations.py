"""Defects of the losses made for segmentation, which the comparison with their literal definitions must find."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustseg.attacks import BalancedMaskedCrossEntropy, CrossEntropy, HoudiniLoss, JensenShannon, Margin, Tsallis
from robustseg.attacks.losses import margin as losses_margin
from robustseg.attacks.losses import masked as losses_masked
from robustseg.attacks.losses import pixelwise as losses

from . import test_losses
from .comparison import check_attack
from .defects import Defect, after, around, found_by, replaced, together
from .test_losses import check_loss


def with_ignored_pixels(logits: Tensor, targets: Tensor, targeted: bool) -> Tensor:
    hit = losses.correct_pixels(logits, targets)
    return ~hit if targeted else hit | (targets < 0)


def weights(change: Callable[[BalancedMaskedCrossEntropy, list[float]], list[float]]) -> Defect:
    original = BalancedMaskedCrossEntropy.weights.fget
    return replaced(BalancedMaskedCrossEntropy, "weights", property(lambda self: change(self, original(self))))


def shannon_of_the_naive_formula(sign: float = -1) -> Defect:
    def body(self: JensenShannon, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:
        p = logits.softmax(1).gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
        return (math.log(2) + (p * p.log() + sign * (1 + p) * (1 + p).log()) / 2) * (targets >= 0)

    return replaced(JensenShannon, "per_pixel", body)


def sweep(q: Callable[[Tsallis, float], float]) -> Defect:
    return replaced(Tsallis, "q", q)


def true_class(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)


def ignored_pixels_as_class_0(original: Callable, self: object, logits: Tensor, targets: Tensor, *rest) -> Tensor:
    return original(self, logits, targets.clamp_min(0), *rest)


def iou_over_all_classes(original: Callable, shown: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Absent classes count as 0."""
    present = [len({*t[t >= 0].tolist(), *s[t >= 0].tolist()}) for s, t in zip(shown, targets, strict=True)]
    return original(shown, targets, classes) * torch.tensor(present) / (classes + 1)


ONLY_THE_FIRST_Q = sweep(lambda self, progress: self.q_start)
SWEEP_BACKWARDS = sweep(lambda self, progress: self.q_end + (self.q_start - self.q_end) * progress)
SWAP_TRUE_AND_RIVAL = after(losses_margin, "true_and_runner_up", lambda pair: pair[::-1])
LOGISTIC_INSTEAD_OF_NORMAL = replaced(torch.special, "ndtr", torch.sigmoid)
TASK_LOSS_OF_IGNORED_PIXELS = around(
    losses_margin, "mean_iou", lambda original, shown, targets, classes: original(shown, targets.clamp_min(0), classes)
)

test_defect_is_found = found_by(
    lambda name, targeted=False: check_loss(name, targeted),
    {
        "forget the mask": (
            replaced(losses_masked, "open_pixels", lambda logits, targets, targeted: (targets >= 0).double()),
            *("MCE", ("MSL", True)),
        ),
        "mask of the other aim": (
            around(losses_masked, "open_pixels", lambda original, logits, targets, _: original(logits, targets, False)),
            *(("MCE", True), ("MCE-Bal", True), ("MSL", True)),
        ),
        "mask with ignored pixels": (replaced(losses_masked, "open_pixels", with_ignored_pixels), "MSL", ("MSL", True)),
        "drop the ignore mask": (
            around(losses, "cross_entropy", lambda original, logits, targets: original(logits, targets.clamp_min(0))),
            *("JS", ("Tsallis", True)),
        ),
        "weights upside down": (weights(lambda self, values: [1 / w for w in values]), "MCE-Bal"),
        "weights of absent classes are zero": (
            weights(lambda self, values: [w * (n > 0) for w, n in zip(values, self.class_pixels, strict=True)]),
            "MCE-Bal",
        ),
        "Shannon with the wrong sign": (shannon_of_the_naive_formula(sign=1), "JS"),
        "Kullback-Leibler": (replaced(JensenShannon, "per_pixel", CrossEntropy.per_pixel), "JS"),
        "only the first q": (ONLY_THE_FIRST_Q, "Tsallis"),
        "sweep counts from one": (
            sweep(lambda self, progress: min(1, self.q_start + (self.q_end - self.q_start) * (progress + 1 / 5))),
            "Tsallis",
        ),
        "sweep backwards": (SWEEP_BACKWARDS, "Tsallis"),
        "q instead of its complement": (after(Tsallis, "q", lambda q: -q), "Tsallis"),
        # The true class is its own rival, so that a correct pixel has no margin.
        "margin to the largest": (
            replaced(losses_margin, "true_and_runner_up", lambda u, y: (true_class(u, y), u.amax(1))),
            *("Margin", "Houdini"),
        ),
        "swap true and rival": (SWAP_TRUE_AND_RIVAL, "Margin", "Houdini"),
        "ignored pixels as class 0": (
            together(*(around(kind, "per_pixel", ignored_pixels_as_class_0) for kind in (Margin, HoudiniLoss))),
            *("Margin", "Houdini", ("Houdini-iou", True)),
        ),
        "detach the length": (
            replaced(losses_masked, "target_cosine", lambda u, y: true_class(u, y) / u.norm(dim=1).detach()),
            *("MSL", ("LogitCosine", True)),
        ),
        "cosine of the softmax": (
            around(losses_masked, "target_cosine", lambda original, u, y: original(u.softmax(1), y)),
            "LogitCosine",
        ),
        "logistic instead of normal": (LOGISTIC_INSTEAD_OF_NORMAL, "Houdini", ("Houdini-predicted", True)),
        "error function without its scale": (
            replaced(torch.special, "ndtr", lambda x: torch.erfc(-x) / 2),
            "Houdini",
        ),
        "task loss of ignored pixels": (TASK_LOSS_OF_IGNORED_PIXELS, ("Houdini-iou", True)),
        "IoU over all classes": (around(losses_margin, "mean_iou", iou_over_all_classes), ("Houdini-iou", True)),
    },
)

test_defect_is_found_in_the_whole_attack = found_by(
    check_attack,
    {
        "sweep backwards": (SWEEP_BACKWARDS, "TsallisPGD"),
        "only the first q": (ONLY_THE_FIRST_Q, ("TsallisPGD", "linf", True)),
        "swap true and rival": (SWAP_TRUE_AND_RIVAL, "Houdini"),
        "logistic instead of normal": (LOGISTIC_INSTEAD_OF_NORMAL, ("Houdini", "linf", True)),
        "task loss of ignored pixels": (TASK_LOSS_OF_IGNORED_PIXELS, ("Houdini-iou", "linf", True)),
    },
)


def near_zero(*case: float) -> Callable[[], None]:
    return lambda: test_losses.test_tsallis_near_the_cross_entropy_and_near_zero(*case)


@pytest.mark.mutation
@pytest.mark.parametrize(
    ("defect", "name", "limit"),
    [
        (shannon_of_the_naive_formula(), "JS", lambda: test_losses.test_extreme_logits("JS", False)),
        (replaced(losses, "_one_minus_exp", lambda x: 1 - x.exp()), "Tsallis", near_zero(2.0, 1e-6)),
        (replaced(losses, "_one_minus_exp", lambda x: -torch.expm1(x)), "Tsallis", near_zero(-12.0, 3.0)),
    ],
)
def test_naive_formulas_would_not_pass_the_limits(defect: Defect, name: str, limit: Callable, monkeypatch):
    """What the tests of the limits are for: the formulas as they are written."""
    defect(monkeypatch)
    check_loss(name, False)
    with pytest.raises(AssertionError):
        limit()
