"""The losses made for segmentation: literal references, closed forms, limits, targets and bad settings."""

import math
from collections.abc import Callable
from decimal import Decimal, localcontext

import pytest
import torch

from robustseg import attacks
from robustseg.attacks import (
    AttackError,
    AttackLoss,
    BalancedMaskedCrossEntropy,
    CrossEntropy,
    HoudiniLoss,
    IterativeAttack,
    JensenShannon,
    LogitCosine,
    Margin,
    MaskedCrossEntropy,
    MaskedSpherical,
    SignStep,
    ThreatModel,
    Tsallis,
)
from robustseg.attacks.losses import margin as losses_margin
from tests.helpers.nets import CLASSES, tiny_batch, tiny_net

from . import reference_losses as literals
from .reference import NO_LABEL, Loss
from .test_closed_form import IMAGES, LABELS, WEIGHT, linear_model
from .test_reference import random_logits

COUNTS = (40, 1000, 0, 7, 300)
LOSSES: dict[str, tuple[AttackLoss, Loss]] = {
    "MCE": (MaskedCrossEntropy(), literals.summed(literals.mce)),
    "MCE-Bal": (BalancedMaskedCrossEntropy(COUNTS), literals.summed(literals.balanced(COUNTS))),
    "JS": (JensenShannon(), literals.summed(literals.jensen_shannon)),
    "Margin": (Margin(), literals.summed(literals.margin)),
    "MSL": (MaskedSpherical(), literals.summed(literals.msl)),
    "LogitCosine": (LogitCosine(), literals.summed(literals.logit_cosine)),
    "Tsallis": (Tsallis(), literals.summed(literals.tsallis())),
    "Tsallis-0.5": (Tsallis(0.5, 0.5), literals.summed(literals.tsallis(0.5, 0.5))),
    "Tsallis-1": (Tsallis(1, -1), literals.summed(literals.tsallis(1, -1))),
    "Houdini": (HoudiniLoss(), literals.houdini()),
    "Houdini-predicted": (HoudiniLoss("predicted"), literals.houdini("predicted")),
    "Houdini-iou": (HoudiniLoss("predicted", "iou"), literals.houdini("predicted", "iou")),
    "Houdini-runner-up": (HoudiniLoss("runner-up", "iou"), literals.houdini("runner-up", "iou")),
}
every_loss = pytest.mark.parametrize("name", LOSSES)
both_aims = pytest.mark.parametrize("targeted", [False, True])


def check_loss(name: str, targeted: bool) -> None:
    """Value and gradient agree with the literal definition at each step of a run."""
    loss, literal = LOSSES[name]
    for t in (1, 3, 5):
        logits, targets = random_logits(seed=t)
        # Houdini's gradient is out of reach for logits that are far apart, as half of these still are.
        logits = (logits / 3).requires_grad_()
        actual = loss(logits, targets, (t - 1) / 5, targeted)
        expected = torch.stack(literal(logits, targets, t, 5, targeted))
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
        gradients = [torch.autograd.grad(value.sum(), logits)[0] for value in (actual, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@both_aims
@every_loss
def test_loss_and_its_gradient(name: str, targeted: bool):
    check_loss(name, targeted)


@both_aims
@every_loss
def test_ignored_pixels_and_other_images_count_for_nothing(name: str, targeted: bool):
    loss, _ = LOSSES[name]
    logits, targets = random_logits(seed=9)
    ignored = (targets == NO_LABEL).unsqueeze(1)
    disturbed = torch.where(ignored, 3 - 2 * logits, logits).requires_grad_()
    together = loss(disturbed, targets, 0.4, targeted)
    assert torch.equal(together, loss(logits, targets, 0.4, targeted))
    (grad,) = torch.autograd.grad(together.sum(), disturbed)
    assert not grad.masked_select(ignored).any()
    assert together[2] == 0
    for b in range(3):
        alone = disturbed.detach()[b : b + 1].requires_grad_()
        value = loss(alone, targets[b : b + 1], 0.4, targeted)
        torch.testing.assert_close(value[0], together[b], rtol=1e-12, atol=0)
        torch.testing.assert_close(torch.autograd.grad(value, alone)[0][0], grad[b], rtol=1e-12, atol=1e-15)


LOG3 = math.log(3)
DENSITY, BELOW = math.exp(-(LOG3**2) / 2) / math.sqrt(2 * math.pi), math.erfc(LOG3 / math.sqrt(2)) / 2
IOU = (0 / 2 + 3 / 5) / 2
# On the linear model's pixels, p = (¼, ¾): gradient along w and value, where the label is 0 (wrong) and 1 (correct).
FORMS: dict[str, tuple[AttackLoss, tuple[float, float], tuple[float, float]]] = {
    "CE": (CrossEntropy(), (0.75, -0.25), (math.log(4), math.log(4 / 3))),
    "MCE": (MaskedCrossEntropy(), (0, -0.25), (0, math.log(4 / 3))),
    "MCE-Bal": (BalancedMaskedCrossEntropy((1, 3)), (0, -0.125), (0, math.log(4 / 3) / 2)),
    "JS": (
        JensenShannon(),
        (3 / 32 * math.log(5), -3 / 32 * math.log(7 / 3)),
        (
            math.log(2) + (math.log(1 / 4) / 4 - 5 / 4 * math.log(5 / 4)) / 2,
            math.log(2) + (3 / 4 * math.log(3 / 4) - 7 / 4 * math.log(7 / 4)) / 2,
        ),
    ),
    "Tsallis": (Tsallis(), (3 / 256, -27 / 256), (21 / 64, 37 / 192)),
    "Margin": (Margin(), (1, -1), (LOG3, -LOG3)),
    "Houdini": (HoudiniLoss(), (DENSITY, -DENSITY), (1 - BELOW, BELOW)),
    "Houdini-predicted": (HoudiniLoss("predicted"), (DENSITY, 0), (1 - BELOW, 0)),
    "Houdini-iou": (
        HoudiniLoss("predicted", "iou"),
        (DENSITY * (1 - IOU), 0),
        ((1 - BELOW) * (1 - IOU), (1 - IOU) / 2),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_closed_form(name: str):
    loss, gradient, value = FORMS[name]
    images = IMAGES[:1].clone().requires_grad_()
    actual = loss(linear_model()(images), LABELS[:1].masked_fill(LABELS[:1] == 255, NO_LABEL), 0.0)
    # Image 0 has two pixels of label 0 and three of label 1.
    assert actual.tolist() == pytest.approx([2 * value[0] + 3 * value[1]], rel=1e-12)
    factor = gradient[0] * (LABELS[:1] == 0).double() + gradient[1] * (LABELS[:1] == 1).double()
    expected = factor.unsqueeze(1) * WEIGHT.view(1, 3, 1, 1)
    torch.testing.assert_close(torch.autograd.grad(actual.sum(), images)[0], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("loss", "value", "gradient"),
    [
        (MaskedSpherical(), -0.8, [0.096, -0.072]),
        (LogitCosine(), 0.2, [0.096, -0.072]),
    ],
    ids=repr,
)
def test_closed_form_of_the_cosine(loss: AttackLoss, value: float, gradient: list[float]):
    logits = torch.tensor([3.0, 4.0], dtype=torch.float64).view(1, 2, 1, 1).requires_grad_()
    actual = loss(logits, torch.tensor([[[1]]]), 0.0)
    assert actual.tolist() == pytest.approx([value], rel=1e-12)
    assert torch.autograd.grad(actual.sum(), logits)[0].flatten().tolist() == pytest.approx(gradient, rel=1e-12)


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@every_loss
def test_attack_reaches_what_it_is_after(name: str, targeted: bool):
    """Fewer correct pixels, or more pixels with the target, than on the clean images."""
    loss = BalancedMaskedCrossEntropy(COUNTS[:CLASSES]) if name == "MCE-Bal" else LOSSES[name][0]
    model, (images, targets) = tiny_net(), tiny_batch()
    valid = targets != 255
    if not targeted:
        targets = torch.where(valid, model(images).argmax(1), targets)
    attack = IterativeAttack(ThreatModel(0.3), loss, SignStep(0.05), 12, random_start=False, targeted=targeted)
    images_adv = attack(model, images, targets)
    clean, after = (int((model(x).argmax(1) == targets).sum()) for x in (images, images_adv))
    if name == "Houdini-predicted" or (name == "Houdini-iou" and not targeted):
        # By definition: where all pixels are correct, no gradient is left.
        assert targeted or torch.equal(images_adv, images)
    if targeted:
        assert after >= clean + 4
    elif "Houdini-" not in name or name == "Houdini-runner-up":
        assert after <= clean - 10


@both_aims
@every_loss
def test_extreme_logits(name: str, targeted: bool):
    loss, _ = LOSSES[name]
    patterns = [
        [1e4, -1e4, -1e4, -1e4, -1e4],
        [-1e4, 1e4, 1e4, 1e4, 1e4],
        [1e4, 1e4 - 1, 0, 0, -1e4],
        [0, 0, 0, 0, 0],
        [1e4, 1e4, 1e4, 1e4, 1e4],
        [1e-30, 0, 0, 0, -1e-30],
    ]
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor(patterns, dtype=dtype).T.reshape(1, 5, 1, 6).repeat(1, 1, 5, 1)
        # Every class is the true one of each pattern.
        targets = torch.arange(5).view(1, 5, 1).expand(1, 5, 6).contiguous()
        for progress in (0.0, 0.5, 1 - 1e-7, 1.0):
            variable = logits.clone().requires_grad_()
            value = loss(variable, targets, progress, targeted)
            (grad,) = torch.autograd.grad(value.sum(), variable)
            assert torch.isfinite(value).all()
            assert torch.isfinite(grad).all()


@every_loss
def test_half_precision_is_computed_in_single(name: str):
    loss, _ = LOSSES[name]
    logits, targets = random_logits(seed=3)
    for dtype in (torch.float16, torch.bfloat16):
        low = logits.to(dtype)
        value = loss(low, targets, 0.2)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(low.float(), targets, 0.2), rtol=0, atol=0)


def exact_shannon(margin: float) -> tuple[float, float]:
    """Divergence and its slope along the true logit of two classes, with 60 digits; u_y − u_k is ``margin``."""
    with localcontext() as context:
        context.prec = 60
        p = 1 / (1 + (-Decimal(margin)).exp())
        value = Decimal(2).ln() + (p * p.ln() - (1 + p) * (1 + p).ln()) / 2
        return float(value), float((p / (1 + p)).ln() / 2 * p * (1 - p))


@pytest.mark.parametrize("margin", [-80.0, -30.0, -5.0, -0.3, 0.0, 0.4, 3.0, 12.0, 25.0, 80.0])
def test_jensen_shannon_near_certainty(margin: float):
    value, slope = exact_shannon(margin)
    for dtype, digits in ((torch.float32, 1e-6), (torch.float64, 1e-13)):
        logits = torch.tensor([margin, 0.0], dtype=dtype).view(1, 2, 1, 1).requires_grad_()
        actual = JensenShannon()(logits, torch.zeros(1, 1, 1, dtype=torch.int64), 0.0)
        (grad,) = torch.autograd.grad(actual.sum(), logits)
        assert actual.item() == pytest.approx(value, rel=digits, abs=digits)
        # The logit of the other class has the slope to full precision; the true one's may lose 1 − p to rounding.
        assert float(grad[0, 1]) == pytest.approx(-slope, rel=50 * digits, abs=0)
        assert float(grad[0, 0]) == pytest.approx(slope, rel=50 * digits, abs=digits)


@pytest.mark.parametrize("power", [0.0, 1e-30, 1e-12, 1e-6, 1e-3, 0.3, 3.0])
@pytest.mark.parametrize("margin", [-12.0, -1.0, 2.0, 9.0])
def test_tsallis_near_the_cross_entropy_and_near_zero(margin: float, power: float):
    with localcontext() as context:
        context.prec = 60
        p = 1 / (1 + (-Decimal(margin)).exp())
        a = Decimal(1) - Decimal(1 - power)  # what is left of it in binary
        value = float(-p.ln() if a == 0 else (1 - (a * p.ln()).exp()) / a)
        slope = float(-((a * p.ln()).exp()) * (1 - p))
    loss = Tsallis(1 - power, 1 - power)
    for dtype, digits in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        logits = torch.tensor([margin, 0.0], dtype=dtype).view(1, 2, 1, 1).requires_grad_()
        actual = loss(logits, torch.zeros(1, 1, 1, dtype=torch.int64), 0.0)
        (grad,) = torch.autograd.grad(actual.sum(), logits)
        assert actual.item() == pytest.approx(value, rel=100 * digits, abs=digits)
        assert float(grad[0, 1]) == pytest.approx(-slope, rel=100 * digits, abs=0)


def test_tsallis_sweeps_from_its_start_and_ends_a_step_short():
    assert Tsallis().q(0) == -2
    assert Tsallis().q(9 / 10) == pytest.approx(1 - 3 / 10)
    assert Tsallis().q(1) == 1
    assert Tsallis(0.5, -1).q(0.5) == -0.25


def test_weights_of_classes():
    assert BalancedMaskedCrossEntropy((1, 3)).weights == pytest.approx([1.5, 0.5])
    assert BalancedMaskedCrossEntropy((10**12, 3 * 10**12)).weights == pytest.approx([1.5, 0.5])
    assert BalancedMaskedCrossEntropy((0.25, 0.75)).weights == pytest.approx([1.5, 0.5])
    # A class without pixels weighs as much as the rarest, and does not change the others.
    assert BalancedMaskedCrossEntropy((1, 0, 3)).weights == pytest.approx([1.5, 1.5, 0.5])
    assert BalancedMaskedCrossEntropy((0, 1e-300, 1e300)).weights == pytest.approx([2, 2, 0])
    assert hash(BalancedMaskedCrossEntropy([1, 3])) == hash(BalancedMaskedCrossEntropy((1, 3)))
    assert repr(BalancedMaskedCrossEntropy([1, 3])) == "BalancedMaskedCrossEntropy(class_pixels=(1, 3))"


def test_class_pixels_from_yaml():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--loss", type=AttackLoss)
    text = "{class_path: robustseg.attacks.BalancedMaskedCrossEntropy, init_args: {class_pixels: [40, 1000, 7]}}"
    built = parser.instantiate_classes(parser.parse_args(["--loss", text])).loss
    assert built == BalancedMaskedCrossEntropy((40, 1000, 7))


def test_number_of_classes_must_fit():
    loss = BalancedMaskedCrossEntropy((1, 2, 3))
    attack = IterativeAttack(ThreatModel("8/255"), loss, SignStep(), 2)
    with pytest.raises(AttackError, match="class_pixels has 3 numbers but the model has 4 classes: give"):
        attack(tiny_net(), *tiny_batch())


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: BalancedMaskedCrossEntropy(()), r"class_pixels = \(\): the number of training pixels of each class"),
        (lambda: BalancedMaskedCrossEntropy((0, 0)), r"class_pixels = \(0, 0\): .*not all 0"),
        (lambda: BalancedMaskedCrossEntropy((1, -1)), r"class_pixels = \(1, -1\): .*0 or more"),
        (lambda: BalancedMaskedCrossEntropy((1, math.nan)), r"class_pixels = \(1, nan\)"),
        (lambda: BalancedMaskedCrossEntropy((1, math.inf)), r"class_pixels = \(1, inf\)"),
        (lambda: Tsallis(q_start=1.5), r"q_start = 1.5 is no number up to 1"),
        (lambda: attacks.TsallisPGD(q_end=2), r"q_end = 2 is no number up to 1"),
        (lambda: Tsallis(q_end=math.nan), r"q_end = nan is no number"),
        (lambda: Tsallis(q_start=-math.inf), r"q_start = -inf is no number"),
        (lambda: HoudiniLoss("second"), r"rival = 'second': use auto, predicted or runner-up"),
        (lambda: attacks.Houdini(task_loss="miou"), r"task_loss = 'miou': use error or iou"),
        (lambda: attacks.TsallisPGD(restarts=2, random_start=False), r"restarts = 2 without random_start"),
    ],
)
def test_bad_settings(create: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        create()


def test_houdini_of_equal_logits_has_no_gradient():
    """A tie counts as predicted everywhere, whichever of the two classes max would name."""
    for label in (0, 1):
        logits = torch.tensor([2.0, 2.0, 1.0]).view(1, 3, 1, 1).requires_grad_()
        for task_loss, value in (("error", 0.0), ("iou", 0.0)):
            loss = HoudiniLoss("predicted", task_loss)(logits, torch.full((1, 1, 1), label), 0.0, True)
            assert loss.item() == value
            assert not torch.autograd.grad(loss.sum(), logits)[0].any()


def test_equal_rivals_do_not_share_the_gradient():
    logits = torch.tensor([1.0, 3.0, 3.0]).view(1, 3, 1, 1).requires_grad_()
    for loss in (Margin(), HoudiniLoss()):
        (grad,) = torch.autograd.grad(loss(logits, torch.zeros(1, 1, 1, dtype=torch.int64), 0.0).sum(), logits)
        slope = float(grad[0, 0])
        assert slope < 0
        assert sorted(grad.flatten().tolist()) == [slope, 0, -slope]


def test_mean_iou_of_images():
    generator = torch.Generator().manual_seed(4)
    shown, wanted = (torch.randint(6, (8, 3, 4), generator=generator) for _ in range(2))
    wanted[torch.rand(wanted.shape, generator=generator) < 0.3] = NO_LABEL
    wanted[1] = shown[1]
    wanted[2] = (shown[2] + 1) % 6
    actual = losses_margin.mean_iou(shown, wanted, 7)
    for b in range(8):
        pixels = [(i, j) for i in range(3) for j in range(4) if wanted[b, i, j] != NO_LABEL]
        maps = [{pixel: int(labels[b][pixel]) for pixel in pixels} for labels in (shown, wanted)]
        assert float(actual[b]) == pytest.approx(literals.image_mean_iou(*maps), rel=1e-12)
    assert actual[1] == 1
    assert actual[2] == 0
