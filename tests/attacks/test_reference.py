"""Losses, step rules, projection, scaling and whole attacks against the literal reference."""

import itertools

import pytest
import torch

from robustseg.attacks import (
    AttackLoss,
    CosPGDLoss,
    CrossEntropy,
    DynamicScale,
    MomentumStep,
    SegPGDLoss,
    SignStep,
    ThreatModel,
    correct_pixels,
)
from tests.helpers.cases import partly

from . import reference
from .comparison import BALLS, CASES, FixedDraws, check_attack, one, pixel_count, valid_count
from .table import linf_or_untargeted

SCHEDULES = ("linear", "log", "exp", "constant", "only-correct")
LOSSES = {
    "CE": (CrossEntropy(), reference.mean_cross_entropy, valid_count),
    "CosPGD": (CosPGDLoss(), reference.cospgd, one),
    **{f"SegPGD-{s}": (SegPGDLoss(s, 0.3), reference.segpgd(s, 0.3), pixel_count) for s in SCHEDULES},
}


def random_logits(seed: int, batch: int = 3, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of which many pixels are right and many wrong, with large values; image 2 has no valid pixel."""
    generator = torch.Generator().manual_seed(seed)
    logits = 6 * torch.randn(batch, classes, 4, 5, generator=generator, dtype=torch.float64)
    targets = torch.randint(classes, (batch, 4, 5), generator=generator)
    targets = torch.where(torch.rand(targets.shape, generator=generator) < 0.5, logits.argmax(1), targets)
    targets[torch.rand(targets.shape, generator=generator) < 0.1] = reference.NO_LABEL
    targets[0, 1] = reference.NO_LABEL
    targets[2] = reference.NO_LABEL
    return logits, targets


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_its_gradient(name: str, targeted: bool):
    loss, literal, divisor = LOSSES[name]
    assert isinstance(loss, AttackLoss)
    for t in range(1, 6):
        logits, targets = random_logits(seed=t)
        logits.requires_grad_()
        actual = loss(logits, targets, (t - 1) / 5, targeted) / divisor(targets)
        expected = torch.stack(literal(logits, targets, t, 5, targeted))
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
        gradients = [torch.autograd.grad(value.sum(), logits)[0] for value in (actual, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_prediction_of_each_pixel():
    logits, targets = random_logits(seed=7)
    expected = [
        [[int(y[i, j]) == reference.pixel_prediction(u[:, i, j]) for j in range(5)] for i in range(4)]
        for u, y in zip(logits, targets, strict=True)
    ]
    assert correct_pixels(logits, targets).tolist() == expected


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("decay", [None, 0.0, 0.6, 1.0])
def test_step_rule(norm: str, decay: float | None):
    eps, alpha = BALLS[norm]
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    allowed = ThreatModel(eps, norm).around(images)
    rule = SignStep(alpha) if decay is None else MomentumStep(alpha, decay)
    state = rule.init(images, allowed, 3)
    memory = [[0.0] * 60, [0.0] * 60]
    current = images.clone()
    for _ in range(3):
        # The two images' gradients differ by orders of magnitude: nothing may be normalised over the batch.
        grad = torch.randn(images.shape, generator=generator, dtype=torch.float64) * torch.tensor([1e-7, 3.0]).view(
            2, 1, 1, 1
        )
        grad[:, :, 0] = 0
        moved = rule.update(current, grad, torch.zeros(2), state, allowed)
        for b in range(2):
            uphill = grad[b].flatten().tolist()
            if decay is not None:
                memory[b] = uphill = reference.add_momentum(memory[b], uphill, decay)
            direction = reference.steepest(uphill, norm)
            expected = [x + alpha * d for x, d in zip(current[b].flatten().tolist(), direction, strict=True)]
            assert moved[b].flatten().tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
        current = moved


@pytest.mark.parametrize("rule", [SignStep("1/8"), MomentumStep("1/8")], ids=repr)
@pytest.mark.parametrize("norm", BALLS)
def test_no_gradient_means_no_step(norm: str, rule: SignStep):
    images = torch.full((2, 3, 2, 2), 0.5)
    allowed = ThreatModel("1/4", norm).around(images)
    moved = rule.update(images, torch.zeros_like(images), torch.zeros(2), rule.init(images, allowed, 1), allowed)
    assert torch.equal(moved, images)


@pytest.mark.parametrize("scale", [30.0, 1e-7])
def test_momentum_neither_overflows_nor_underflows_in_half_precision(scale: float):
    """Of these gradients the L1 norm, or the quotients by it, lie outside of float16."""
    generator = torch.Generator().manual_seed(8)
    images = torch.full((1, 3, 48, 48), 0.5, dtype=torch.float16)
    grad = (scale * torch.randn(images.shape, generator=generator)).half()
    allowed = ThreatModel("1/4").around(images)
    rule = MomentumStep("1/8")
    moved = rule.update(images, grad, torch.zeros(1), rule.init(images, allowed, 1), allowed)
    assert moved.dtype == torch.float16
    assert torch.equal(moved, images + grad.sign() / 8)


@pytest.mark.parametrize("norm", BALLS)
def test_projection(norm: str):
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(4, 3, 4, 5, generator=generator, dtype=torch.float64).clamp(0.1, 0.9).mul(1.25).sub(0.125)
    # From well inside the ball to far outside of ball and box.
    reach = torch.tensor([0.001, 0.05, 0.3, 3.0], dtype=torch.float64).view(4, 1, 1, 1)
    moved = images + reach * torch.randn(images.shape, generator=generator, dtype=torch.float64)
    eps = BALLS[norm][0]
    projected = ThreatModel(eps, norm).around(images).project(moved)
    for b in range(4):
        expected = reference.project(moved[b].flatten().tolist(), images[b].flatten().tolist(), eps, norm)
        assert projected[b].flatten().tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("size", [(7, 6), (12, 9), (5, 13)], ids=str)
def test_dynamic_scale(size: tuple[int, int]):
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64)
    targets = torch.randint(-1, 200, (2, *size), generator=generator)
    sizes = set()
    for draw in (0.01, 0.13, 0.31, 0.5, 0.77, 0.999):
        resized, labels = DynamicScale(0.5)(images, targets, FixedDraws([draw]))
        expected_size = [reference.resized_length(length, 0.5 + draw) for length in size]
        assert [*resized.shape[-2:]] == expected_size
        assert [*labels.shape[-2:]] == expected_size
        torch.testing.assert_close(resized, reference.resize_bilinear(images, *expected_size), rtol=0, atol=1e-6)
        assert torch.equal(labels, reference.resize_nearest(targets, *expected_size))
        sizes.add(tuple(expected_size))
    assert len(sizes) > 3


def test_random_start_is_uniform_in_the_ball():
    images = torch.full((1, 3, 40, 50), 0.5, dtype=torch.float64)
    source = FixedDraws([])
    delta = (ThreatModel("1/10", "linf").around(images).sample(source) - images).flatten() * 10
    # Of U(−1, 1): mean 0 ± 0.0075, variance 1/3, a quarter in each quarter of the range.
    assert abs(float(delta.mean())) < 0.03
    assert float(delta.var()) == pytest.approx(1 / 3, abs=0.015)
    for quarter in range(4):
        inside = ((delta + 1) * 2).floor() == quarter
        assert float(inside.double().mean()) == pytest.approx(0.25, abs=0.03)
    small = torch.full((400, 3, 1, 1), 0.5, dtype=torch.float64)
    lengths = (ThreatModel("1/10", "l2").around(small).sample(FixedDraws([])) - small).flatten(1).norm(dim=1) * 10
    # Uniform in a 3-dimensional ball: the cube of the length is uniform.
    assert float(lengths.max()) <= 1 + 1e-12
    assert float((lengths**3).mean()) == pytest.approx(0.5, abs=0.06)
    assert float((lengths**3 < 0.25).double().mean()) == pytest.approx(0.25, abs=0.08)


@pytest.mark.parametrize(
    ("name", "norm", "targeted"),
    partly(
        itertools.product(CASES, BALLS, (False, True)),
        lambda name, norm, targeted: linf_or_untargeted(norm, targeted) or (name, targeted) == ("MIFGSM", False),
    ),
)
def test_whole_attack(name: str, norm: str, targeted: bool):
    check_attack(name, norm, targeted)
