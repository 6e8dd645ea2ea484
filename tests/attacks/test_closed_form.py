"""A linear model, pixel by pixel, on which losses and first steps are known exactly.

The logits of a pixel x are (0, w·x + b). On the image x = ½ they are (0, log 3), so that the probabilities are
(¼, ¾) and class 1 is predicted. The gradient of CE is +¾·w where the label is 0 and −¼·w where it is 1.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from robustseg import attacks
from robustseg.attacks import AttackStep

from .table import build

WEIGHT = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
LABELS = torch.tensor([[[0, 1, 1], [0, 255, 1]], [[0, 255, 255], [255, 255, 1]]])
IMAGES = torch.full((2, 3, 2, 3), 0.5, dtype=torch.float64)
ONE_STEP = ["FGSM", "SegFGSM"]
FROM_CLEAN = ["FGSM", "SegFGSM", "BIM", "MIFGSM"]

# CE where the label is 0 (wrong) and where it is 1 (correct), and the cosine there.
WRONG, CORRECT = math.log(4), math.log(4 / 3)
COSINE_WRONG, COSINE_CORRECT = 1 / math.sqrt(10), 3 / math.sqrt(10)


def linear_model() -> nn.Conv2d:
    model = nn.Conv2d(3, 2, 1).double()
    model.weight.data.zero_()
    model.weight.data[1, :, 0, 0] = WEIGHT
    model.bias.data = torch.tensor([0.0, math.log(3) - float(WEIGHT.sum()) / 2], dtype=torch.float64)
    return model


def slopes(at_wrong: float, at_correct: float) -> Tensor:
    """Gradient that is the given multiple of w where the label is 0 and where it is 1."""
    factor = at_wrong * (LABELS == 0) + at_correct * (LABELS == 1)
    return factor.unsqueeze(1) * WEIGHT.view(1, 3, 1, 1)


# Of the untargeted loss at t = 1: gradient where the label is 0, gradient where it is 1, loss of each image.
CE_FORM = (0.75, -0.25, [2 * WRONG + 3 * CORRECT, WRONG + CORRECT])
SEG_FORM = (0.0, -0.25, [3 * CORRECT, CORRECT])
COS_FORM = (
    0.75 * COSINE_WRONG,
    -0.25 * COSINE_CORRECT,
    [2 * COSINE_WRONG * WRONG + 3 * COSINE_CORRECT * CORRECT, COSINE_WRONG * WRONG + COSINE_CORRECT * CORRECT],
)
FORMS = {
    "FGSM": CE_FORM,
    "SegFGSM": SEG_FORM,
    "BIM": CE_FORM,
    "PGD": CE_FORM,
    "SegPGD": SEG_FORM,
    "CosPGD": COS_FORM,
    "MIFGSM": CE_FORM,
    "DS": CE_FORM,
}


def first_step(name: str, norm: str, step_size: float) -> tuple[list[AttackStep], Tensor]:
    """The one step of ``name`` from the clean image, without leaving the ball or the box."""
    seen: list[AttackStep] = []
    model = linear_model()
    options = {"step_size": step_size, "steps": 1}
    if name in ONE_STEP:
        attack = build(name, step_size, norm)
    else:
        if name not in FROM_CLEAN:
            options["random_start"] = False
        if name == "DS":
            options["scale_range"] = 0.0
        attack = getattr(attacks, name)(eps=step_size, norm=norm, **options)
    return seen, attack(model, IMAGES, LABELS, on_step=seen.append)


@pytest.mark.parametrize("name", FORMS)
def test_linf_step_is_eps_times_the_sign(name: str):
    at_wrong, at_correct, losses = FORMS[name]
    seen, images_adv = first_step(name, "linf", 0.125)
    assert torch.equal(images_adv, IMAGES + 0.125 * slopes(at_wrong, at_correct).sign())
    assert seen[0].loss.tolist() == pytest.approx(losses, rel=1e-12)


@pytest.mark.parametrize("name", FORMS)
def test_l2_step_goes_along_the_gradient_of_each_image(name: str):
    at_wrong, at_correct, losses = FORMS[name]
    seen, images_adv = first_step(name, "l2", 0.25)
    gradient = slopes(at_wrong, at_correct)
    direction = gradient / gradient.flatten(1).norm(dim=1).view(2, 1, 1, 1)
    torch.testing.assert_close(images_adv, IMAGES + 0.25 * direction, rtol=0, atol=1e-12)
    assert seen[0].loss.tolist() == pytest.approx(losses, rel=1e-12)


@pytest.mark.parametrize("name", FORMS)
def test_predictions_are_the_closed_form(name: str):
    seen, _ = first_step(name, "linf", 0.125)
    assert seen[0].logits[0, :, 0, 0].tolist() == pytest.approx([0.0, math.log(3)], abs=1e-12)


@pytest.mark.parametrize("name", FROM_CLEAN)
def test_ignored_pixels_of_a_per_pixel_model_do_not_move(name: str):
    images_adv = build(name, 0.05)(linear_model(), IMAGES, LABELS)
    still = (images_adv == IMAGES).all(1)
    assert still[LABELS == 255].all()
    assert not still[LABELS == 1].any()


@pytest.mark.parametrize("name", ["FGSM", "BIM", "PGD", "MIFGSM", "CosPGD"])
def test_targeted_steps_raise_the_target(name: str):
    """Everywhere towards class 1: +ε·sign(w), also with labels that are predicted already."""
    attack = build(name, 0.05, targeted=True)
    images_adv = attack(linear_model(), IMAGES, torch.ones_like(LABELS))
    moved = ((images_adv - IMAGES) * WEIGHT.view(1, 3, 1, 1)).sum(1)
    assert (moved > 0).all()
