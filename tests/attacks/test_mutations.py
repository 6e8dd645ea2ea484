"""The checks against the reference must notice defects: each one is put into the library and has to be found."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustseg.attacks import iterative, noise, transforms
from robustseg.attacks.losses import pixelwise as losses
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.losses.pixelwise import CosPGDLoss, CrossEntropy, SegPGDLoss
from robustseg.attacks.steps.sign import MomentumStep, SignStep
from robustseg.attacks.threat import AllowedSet, ThreatModel
from robustseg.attacks.transforms import DynamicScale

from .comparison import check_attack

pytestmark = pytest.mark.mutation

Patch = pytest.MonkeyPatch


def flip_the_step(patch: Patch) -> None:
    original = ThreatModel.direction
    patch.setattr(ThreatModel, "direction", lambda self, grad: -original(self, grad))


def skip_the_projection(patch: Patch) -> None:
    patch.setattr(AllowedSet, "project", lambda self, images_adv: images_adv)


def forget_the_box(patch: Patch) -> None:
    def project(self: AllowedSet, images_adv: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(images_adv, self.images - self._eps), self.images + self._eps)

    patch.setattr(AllowedSet, "project", project)


def project_around_the_iterate(patch: Patch) -> None:
    """The ball moves along with the iterate."""
    original = AllowedSet.project

    def project(self: AllowedSet, images_adv: Tensor) -> Tensor:
        projected = original(self, images_adv)
        return original(AllowedSet(self.threat, projected), images_adv)

    patch.setattr(AllowedSet, "project", project)


def drop_the_ignore_mask(patch: Patch) -> None:
    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets.clamp_min(0), reduction="none")

    patch.setattr(losses, "cross_entropy", cross_entropy)


def ignore_another_label(patch: Patch) -> None:
    """Class 0 is taken for the ignored one as well."""

    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets.masked_fill(targets == 0, IGNORED), reduction="none")

    patch.setattr(losses, "cross_entropy", cross_entropy)


def swap_the_weights(patch: Patch) -> None:
    original = SegPGDLoss.weight_of_wrong
    patch.setattr(SegPGDLoss, "weight_of_wrong", lambda self, progress: 1 - original(self, progress))


def start_the_schedule_at_one(patch: Patch) -> None:
    """t/T instead of (t−1)/T."""
    original = SegPGDLoss.weight_of_wrong
    patch.setattr(SegPGDLoss, "weight_of_wrong", lambda self, progress: original(self, progress + 1 / 4))


def forget_half_of_the_schedule(patch: Patch) -> None:
    """λ = (t−1)/T instead of (t−1)/2T."""
    original = SegPGDLoss.weight_of_wrong
    patch.setattr(SegPGDLoss, "weight_of_wrong", lambda self, progress: 2 * original(self, progress))


def natural_logarithm(patch: Patch) -> None:
    patch.setattr(SegPGDLoss, "weight_of_wrong", lambda self, progress: math.log(1 + progress) / 2)


def base_e(patch: Patch) -> None:
    patch.setattr(SegPGDLoss, "weight_of_wrong", lambda self, progress: (math.exp(progress) - 1) / 2)


def predict_on_the_first_iterate(patch: Patch) -> None:
    """Algorithm 1 of the paper: what counts as correct is decided once."""
    original = losses.correct_pixels
    first: list[Tensor] = []

    def correct_pixels(logits: Tensor, targets: Tensor) -> Tensor:
        first.append(original(logits, targets))
        return first[0]

    patch.setattr(losses, "correct_pixels", correct_pixels)


def keep_the_weights_when_targeted(patch: Patch) -> None:
    for loss in (SegPGDLoss, CosPGDLoss):

        def per_pixel(self, logits, targets, progress, targeted, original=loss.per_pixel):
            return original(self, logits, targets, progress, False)

        patch.setattr(loss, "per_pixel", per_pixel)


def cosine(patch: Patch, probabilities: Callable[[Tensor], Tensor], order: float = 2, detach: bool = True) -> None:
    def per_pixel(self: CosPGDLoss, logits: Tensor, targets: Tensor, progress: float, targeted: bool) -> Tensor:
        p = probabilities(logits)
        weight = p.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1) / p.norm(p=order, dim=1)
        weight = weight.detach() if detach else weight
        return losses.cross_entropy(logits, targets) * (1 - weight if targeted else weight)

    patch.setattr(CosPGDLoss, "per_pixel", per_pixel)


def differentiate_the_cosine(patch: Patch) -> None:
    cosine(patch, lambda logits: logits.softmax(1), detach=False)


def sigmoid_in_the_cosine(patch: Patch) -> None:
    cosine(patch, torch.sigmoid)


def probability_instead_of_the_cosine(patch: Patch) -> None:
    cosine(patch, lambda logits: logits.softmax(1), order=1)


def l2_over_the_batch(patch: Patch) -> None:
    patch.setattr(ThreatModel, "direction", lambda self, grad: grad / grad.norm())


def momentum(patch: Patch, update: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    def step(
        self: MomentumStep, images_adv: Tensor, grad: Tensor, loss: Tensor, state: dict, allowed: AllowedSet
    ) -> Tensor:
        state["momentum"] = update(state["momentum"], grad, self.decay)
        return SignStep.update(self, images_adv, state["momentum"], loss, state, allowed)

    patch.setattr(MomentumStep, "update", step)


def per_image_l1(grad: Tensor) -> Tensor:
    return grad / grad.abs().sum((1, 2, 3), keepdim=True)


def forget_the_momentum(patch: Patch) -> None:
    momentum(patch, lambda memory, grad, decay: per_image_l1(grad))


def momentum_without_normalisation(patch: Patch) -> None:
    momentum(patch, lambda memory, grad, decay: decay * memory + grad)


def momentum_normalised_over_the_batch(patch: Patch) -> None:
    momentum(patch, lambda memory, grad, decay: decay * memory + grad / grad.abs().sum())


def ignore_the_decay(patch: Patch) -> None:
    momentum(patch, lambda memory, grad, decay: memory + per_image_l1(grad))


def always_from_the_image(patch: Patch) -> None:
    patch.setattr(AllowedSet, "sample", lambda self, source: self.images.clone())


def start_outside_the_ball(patch: Patch) -> None:
    patch.setattr(AllowedSet, "sample", lambda self, source: torch.rand_like(self.images))


def one_step_less(patch: Patch) -> None:
    patch.setattr(iterative, "range", lambda count: range(count - 1 if count > 1 else count), raising=False)


def ignore_targeted(patch: Patch) -> None:
    original = iterative.IterativeAttack.__init__

    def init(self: iterative.IterativeAttack, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)
        self.targeted = False

    patch.setattr(iterative.IterativeAttack, "__init__", init)


def half_a_step(patch: Patch) -> None:
    original = SignStep.__init__

    def init(self: SignStep, step_size: float | str = 0.01) -> None:
        original(self, step_size)
        self.step_size /= 2

    patch.setattr(SignStep, "__init__", init)


def mix_images_of_the_batch(patch: Patch) -> None:
    """Mean over the batch's valid pixels: harmless to signs, but not what an image's loss is."""
    original = CrossEntropy.per_pixel
    patch.setattr(
        CrossEntropy, "per_pixel", lambda self, *args: original(self, *args).mean(0, keepdim=True).expand(2, -1, -1)
    )


def interpolation(patch: Patch, change: Callable[[dict], dict]) -> None:
    patch.setattr(
        transforms,
        "F",
        type("Functions", (), {"interpolate": staticmethod(lambda x, **how: F.interpolate(x, **change(how)))}),
    )


def shifted_labels(patch: Patch) -> None:
    interpolation(patch, lambda how: {**how, "mode": how["mode"].replace("nearest-exact", "nearest")})


def aligned_corners(patch: Patch) -> None:
    interpolation(patch, lambda how: {**how, "align_corners": True} if how["mode"] == "bilinear" else how)


def only_smaller_scales(patch: Patch) -> None:
    original = DynamicScale.__call__

    def call(self: DynamicScale, images_adv: Tensor, targets: Tensor, source: noise.NoiseSource) -> tuple:
        small = type("Small", (), {"scalar": lambda _: source.scalar() / 2})
        return original(self, images_adv, targets, small())

    patch.setattr(DynamicScale, "__call__", call)


MUTATIONS: list[tuple[Callable[[Patch], None], str, str, bool]] = [
    (flip_the_step, "BIM", "linf", False),
    (flip_the_step, "PGD", "l2", True),
    (flip_the_step, "FGSM", "linf", False),
    (flip_the_step, "MIFGSM", "linf", False),
    (skip_the_projection, "PGD", "linf", False),
    (skip_the_projection, "SegPGD-linear", "l2", False),
    (skip_the_projection, "BIM", "linf", False),
    (forget_the_box, "FGSM", "linf", False),
    (project_around_the_iterate, "BIM", "linf", False),
    (drop_the_ignore_mask, "FGSM", "linf", False),
    (drop_the_ignore_mask, "SegPGD-linear", "linf", False),
    (drop_the_ignore_mask, "CosPGD", "l2", True),
    (drop_the_ignore_mask, "DS", "linf", False),
    (ignore_another_label, "PGD", "linf", False),
    (swap_the_weights, "SegPGD-linear", "linf", False),
    (swap_the_weights, "SegPGD-only-correct", "linf", True),
    (swap_the_weights, "SegFGSM", "linf", False),
    (start_the_schedule_at_one, "SegPGD-linear", "linf", False),
    (start_the_schedule_at_one, "SegPGD-exp", "l2", False),
    (forget_half_of_the_schedule, "SegPGD-linear", "linf", False),
    (natural_logarithm, "SegPGD-log", "linf", False),
    (base_e, "SegPGD-exp", "linf", False),
    (predict_on_the_first_iterate, "SegPGD-linear", "linf", False),
    (keep_the_weights_when_targeted, "SegPGD-log", "linf", True),
    (keep_the_weights_when_targeted, "CosPGD", "linf", True),
    (differentiate_the_cosine, "CosPGD", "linf", False),
    (differentiate_the_cosine, "CosPGD", "l2", True),
    (sigmoid_in_the_cosine, "CosPGD", "linf", False),
    (probability_instead_of_the_cosine, "CosPGD", "linf", False),
    (l2_over_the_batch, "FGSM", "l2", False),
    (forget_the_momentum, "MIFGSM", "linf", False),
    (momentum_without_normalisation, "MIFGSM", "linf", False),
    (momentum_normalised_over_the_batch, "MIFGSM", "l2", False),
    (ignore_the_decay, "MIFGSM-0.7", "linf", False),
    (always_from_the_image, "PGD", "linf", False),
    (start_outside_the_ball, "CosPGD", "linf", False),
    (one_step_less, "BIM", "linf", False),
    (ignore_targeted, "BIM", "linf", True),
    (half_a_step, "BIM", "linf", False),
    (half_a_step, "FGSM", "linf", False),
    (mix_images_of_the_batch, "BIM", "linf", False),
    (shifted_labels, "DS", "linf", False),
    (aligned_corners, "DS", "linf", False),
    (only_smaller_scales, "DS", "linf", False),
]


@pytest.mark.parametrize(
    ("mutate", "name", "norm", "targeted"), MUTATIONS, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_defect_is_found(mutate: Callable, name: str, norm: str, targeted: bool, monkeypatch: Patch):
    with monkeypatch.context() as patch:
        mutate(patch)
        with pytest.raises(AssertionError):
            check_attack(name, norm, targeted)
    check_attack(name, norm, targeted)
