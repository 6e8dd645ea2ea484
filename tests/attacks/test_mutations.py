"""The checks against the reference must notice defects: each one is put into the library and has to be found."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from robustseg.attacks import iterative, transforms
from robustseg.attacks.losses import pixelwise as losses
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.losses.pixelwise import CosPGDLoss, CrossEntropy, SegPGDLoss
from robustseg.attacks.steps.sign import MomentumStep, SignStep
from robustseg.attacks.threat import AllowedSet, ThreatModel
from robustseg.attacks.transforms import DynamicScale

from .comparison import check_attack
from .defects import Defect, after, around, built_with, found_by, replaced, together


def first_call_for_ever() -> Defect:
    """Algorithm 1 of SegPGD's paper: what counts as correct is decided once."""

    def defect(patch):
        first: list[Tensor] = []

        def correct_pixels(original: Callable, *args: Tensor) -> Tensor:
            first.append(original(*args))
            return first[0]

        around(losses, "correct_pixels", correct_pixels)(patch)

    return defect


def cosine(probabilities: Callable[[Tensor], Tensor], order: float = 2, detach: bool = True) -> Defect:
    def per_pixel(self: CosPGDLoss, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:
        p = probabilities(logits)
        weight = p.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1) / p.norm(p=order, dim=1)
        weight = weight.detach() if detach else weight
        return losses.cross_entropy(logits, targets) * (1 - weight if targeted else weight)

    return replaced(CosPGDLoss, "per_pixel", per_pixel)


def momentum(update: Callable[[Tensor, Tensor, float], Tensor]) -> Defect:
    def step(
        self: MomentumStep, images_adv: Tensor, grad: Tensor, loss: Tensor, state: dict, allowed: AllowedSet
    ) -> Tensor:
        state["momentum"] = update(state["momentum"], grad, self.decay)
        return SignStep.update(self, images_adv, state["momentum"], loss, state, allowed)

    return replaced(MomentumStep, "update", step)


def per_image_l1(grad: Tensor) -> Tensor:
    return grad / grad.abs().sum((1, 2, 3), keepdim=True)


def labels(change: Callable[[Tensor], Tensor]) -> Defect:
    """Cross-entropy of other targets."""
    return around(losses, "cross_entropy", lambda original, logits, targets: original(logits, change(targets)))


def weight_of_wrong(weight: Callable[[float], float]) -> Defect:
    return replaced(SegPGDLoss, "weight_of_wrong", lambda self, progress: weight(progress))


def interpolation(change: Callable[[dict], dict]) -> Defect:
    functions = {"interpolate": staticmethod(lambda x, **how: F.interpolate(x, **change(how)))}
    return replaced(transforms, "F", type("Functions", (), functions))


def align_corners(original: Callable, images: Tensor, size: tuple[int, int]) -> Tensor:
    return original(images, size, align_corners=True)


def project_around_the_iterate(original: Callable, self: AllowedSet, images_adv: Tensor) -> Tensor:
    return original(AllowedSet(self.threat, original(self, images_adv)), images_adv)


def untargeted(original: Callable, self: object, logits: Tensor, targets: Tensor, progress: float, aim: bool) -> Tensor:
    return original(self, logits, targets, progress, False)


def half_a_step(original: Callable, self: SignStep, step_size: float | str = 0.01) -> None:
    original(self, step_size)
    self.step_size /= 2


def only_smaller_scales(original: Callable, self: DynamicScale, images_adv: Tensor, targets: Tensor, source) -> tuple:
    return original(self, images_adv, targets, type("Small", (), {"scalar": lambda _: source.scalar() / 2})())


SEG, COS = "SegPGD-linear", "CosPGD"

test_defect_is_found = found_by(
    check_attack,
    {
        "flip the step": (after(ThreatModel, "direction", torch.neg), "BIM", ("PGD", "l2", True), "FGSM", "MIFGSM"),
        "skip the projection": (replaced(AllowedSet, "project", lambda self, x: x), "PGD", (SEG, "l2"), "BIM"),
        "forget the box": (
            replaced(
                AllowedSet, "project", lambda self, x: self.images + (x - self.images).clamp(-self._eps, self._eps)
            ),
            "FGSM",
        ),
        "project around the iterate": (around(AllowedSet, "project", project_around_the_iterate), "BIM"),
        "drop the ignore mask": (labels(lambda y: y.clamp_min(0)), "FGSM", SEG, (COS, "l2", True), "DS"),
        "ignore class 0 as well": (labels(lambda y: y.masked_fill(y == 0, IGNORED)), "PGD"),
        "swap the weights": (
            after(SegPGDLoss, "weight_of_wrong", lambda weight: 1 - weight),
            *(SEG, ("SegPGD-only-correct", "linf", True), "SegFGSM"),
        ),
        "t/T instead of (t−1)/T": (
            around(SegPGDLoss, "weight_of_wrong", lambda original, self, progress: original(self, progress + 1 / 4)),
            *(SEG, ("SegPGD-exp", "l2")),
        ),
        "λ = (t−1)/T instead of (t−1)/2T": (after(SegPGDLoss, "weight_of_wrong", lambda weight: 2 * weight), SEG),
        "natural logarithm": (weight_of_wrong(lambda progress: math.log(1 + progress) / 2), "SegPGD-log"),
        "base e": (weight_of_wrong(lambda progress: (math.exp(progress) - 1) / 2), "SegPGD-exp"),
        "predict on the first iterate": (first_call_for_ever(), SEG),
        "keep the weights when targeted": (
            together(*(around(loss, "per_pixel", untargeted) for loss in (SegPGDLoss, CosPGDLoss))),
            *(("SegPGD-log", "linf", True), (COS, "linf", True)),
        ),
        "differentiate the cosine": (cosine(lambda u: u.softmax(1), detach=False), COS, (COS, "l2", True)),
        "sigmoid in the cosine": (cosine(torch.sigmoid), COS),
        "probability instead of the cosine": (cosine(lambda u: u.softmax(1), order=1), COS),
        "l2 over the batch": (
            replaced(ThreatModel, "direction", lambda self, grad: grad / grad.norm()),
            ("FGSM", "l2"),
        ),
        "forget the momentum": (momentum(lambda memory, grad, decay: per_image_l1(grad)), "MIFGSM"),
        "momentum without normalisation": (momentum(lambda memory, grad, decay: decay * memory + grad), "MIFGSM"),
        "momentum normalised over the batch": (
            momentum(lambda memory, grad, decay: decay * memory + grad / grad.abs().sum()),
            ("MIFGSM", "l2"),
        ),
        "ignore the decay": (momentum(lambda memory, grad, decay: memory + per_image_l1(grad)), "MIFGSM-0.7"),
        "always from the image": (replaced(AllowedSet, "sample", lambda self, source: self.images.clone()), "PGD"),
        "start outside the ball": (
            replaced(AllowedSet, "sample", lambda self, source: torch.rand_like(self.images)),
            COS,
        ),
        "one step less": (
            lambda patch: patch.setattr(iterative, "range", lambda n: range(n - 1 if n > 1 else n), raising=False),
            "BIM",
        ),
        "ignore targeted": (built_with(iterative.IterativeAttack, targeted=False), ("BIM", "linf", True)),
        "half a step": (around(SignStep, "__init__", half_a_step), "BIM", "FGSM"),
        "mean over the batch": (after(CrossEntropy, "per_pixel", lambda x: x.mean(0, True).expand(2, -1, -1)), "BIM"),
        "shifted labels": (
            interpolation(lambda how: {**how, "mode": how["mode"].replace("nearest-exact", "nearest")}),
            "DS",
        ),
        "aligned corners": (around(transforms, "resize", align_corners), "DS"),
        "only smaller scales": (around(DynamicScale, "__call__", only_smaller_scales), "DS"),
    },
)
