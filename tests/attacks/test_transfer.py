"""Input diversity, translation invariance and Nesterov momentum, each by itself."""

import math

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import (
    NIFGSM,
    TIFGSM,
    AttackStep,
    Chain,
    CosPGDLoss,
    CrossEntropy,
    DynamicScale,
    InputDiversity,
    IterativeAttack,
    MomentumStep,
    NesterovStep,
    NoiseSource,
    SignStep,
    StepRule,
    ThreatModel,
    TranslationInvariantStep,
)
from robustseg.attacks.steps.adaptive import AdaptiveStep
from tests.helpers.nets import tiny_batch, tiny_net

from . import reference
from . import reference_transfer as literal
from .comparison import BALLS, FixedDraws
from .comparison_transfer import ALWAYS, RATES

NORMS = pytest.mark.parametrize("norm", BALLS)


@pytest.mark.parametrize("size", [(7, 6), (12, 9), (5, 13)], ids=str)
@pytest.mark.parametrize("rate", RATES)
def test_input_diversity(rate: str, size: tuple[int, int]):
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 200, (2, *size), generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < 0.1] = reference.NO_LABEL
    for draws in (RATES[rate], [0.0, 0.0, 0.0], [0.999, 0.999, 0.999]):
        seen, labels = InputDiversity(0.5, float(rate))(images, targets, FixedDraws([0.49, *draws]))
        expected, expected_labels = literal.diversified(rate, draws)(images, targets)
        assert seen.shape == expected.shape
        torch.testing.assert_close(seen, expected, rtol=0, atol=1e-6)
        assert torch.equal(labels, expected_labels)


def test_input_diversity_by_hand():
    images = torch.full((1, 3, 4, 4), 0.5)
    targets = torch.arange(16).reshape(1, 4, 4)
    # Half the size, one pixel below the upper border and at the left one.
    seen, labels = InputDiversity(1, 0.5)(images, targets, FixedDraws([ALWAYS, 0.0, 0.5, 0.2]))
    none = reference.NO_LABEL
    assert labels.tolist() == [[[none] * 4, [5, 7, none, none], [13, 15, none, none], [none] * 4]]
    assert torch.equal(seen, torch.where(labels.unsqueeze(1) == none, 0.0, 0.5).expand_as(images))


@pytest.mark.parametrize("transform", [InputDiversity(0.0), InputDiversity(0.7), InputDiversity(1.0, 1.0)], ids=repr)
def test_input_diversity_that_changes_nothing(transform: InputDiversity):
    images, targets = tiny_batch()
    seen, labels = transform(images, targets, FixedDraws([0.7, 0.9, 0.9, 0.9]))
    assert torch.equal(seen, images)
    assert torch.equal(labels, targets)


def test_input_diversity_reaches_every_border_and_keeps_one_pixel():
    images, targets = torch.ones(1, 3, 1, 9), torch.ones(1, 1, 9, dtype=torch.long)
    source = NoiseSource.from_generator(torch.Generator().manual_seed(0), torch.device("cpu"))
    changed, spans = 0, set()
    for _ in range(400):
        seen, labels = InputDiversity(0.5, 0.7)(images, targets, source)
        assert seen.shape == images.shape
        covered = labels[0, 0].ge(0).nonzero()[:, 0].tolist()
        changed += len(covered) < 9
        spans.add((covered[0], covered[-1]))
    assert 160 < changed < 240
    # 6, 7 or 8 of 9 pixels at every place.
    assert spans == {(i, i + n - 1) for n in (6, 7, 8) for i in range(10 - n)} | {(0, 8)}


def test_chain_applies_in_order():
    images, targets = tiny_batch(ignore_index=reference.NO_LABEL)
    draws = [0.9, ALWAYS, *RATES["0.6"]]
    seen, labels = Chain([DynamicScale(0.5), InputDiversity(1, 0.6)])(images, targets, FixedDraws(draws))
    expected = literal.one_after_the_other(literal.scaled(1.4), literal.diversified("0.6", draws[2:]))(images, targets)
    torch.testing.assert_close(seen, expected[0], rtol=0, atol=1e-6)
    assert torch.equal(labels, expected[1])


KERNELS = [
    ("gaussian", 15, None),
    ("gaussian", 5, 0.8),
    ("linear", 7, None),
    ("uniform", 3, None),
    ("gaussian", 1, None),
]


@pytest.mark.parametrize(("kernel", "size", "sigma"), KERNELS)
def test_smoothed_gradient(kernel: str, size: int, sigma: float | None):
    grad = torch.randn(2, 3, 7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    table = literal.kernel_table(kernel, size, sigma)
    rule = TranslationInvariantStep(SignStep(), kernel, size, sigma)
    expected = torch.stack([literal.smooth(one, table) for one in grad])
    torch.testing.assert_close(rule.smooth(grad), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(rule.smooth(grad.float()), expected.float(), rtol=1e-5, atol=1e-6)


def test_half_precision_gradients_are_smoothed_in_single_precision():
    grad = torch.randn(1, 3, 20, 20, generator=torch.Generator().manual_seed(2)).mul(1e-6).half()
    smoothed = TranslationInvariantStep(SignStep()).smooth(grad)
    assert smoothed.dtype == torch.float32
    # The tails of the kernel would underflow in float16.
    assert float((smoothed == 0).double().mean()) < 0.01
    images = torch.full_like(grad, 0.5)
    allowed = ThreatModel("1/4").around(images)
    for inner in (SignStep("1/8"), MomentumStep("1/8"), NesterovStep("1/8")):
        rule = TranslationInvariantStep(inner)
        state = rule.init(images, allowed, 2)
        moved = rule.update(images, grad, torch.zeros(1), state, allowed)
        assert torch.equal(moved, images + smoothed.sign().half() / 8)
        assert rule.look_ahead(moved, state, allowed).dtype == torch.float16


class TwoClasses(nn.Module):
    """1×1 convolution whose class 1 has the logit w·x."""

    weight = (0.3, -0.8, 0.5)

    def forward(self, images: Tensor) -> Tensor:
        logit = (images * images.new_tensor(self.weight).view(1, 3, 1, 1)).sum(1, keepdim=True)
        return torch.cat([torch.zeros_like(logit), logit], 1)


@NORMS
def test_one_pixel_moves_its_neighbourhood(norm: str):
    images = torch.full((1, 3, 9, 9), 0.5, dtype=torch.float64)
    targets = torch.full((1, 9, 9), 255)
    targets[0, 3, 5] = 0
    eps = 1 / 128 if norm == "rms" else 1 / 8  # over few pixels, which must not leave [0, 1]
    delta = (
        TIFGSM(eps=eps, step_size=eps, steps=1, kernel="linear", kernel_size=3, norm=norm)(
            TwoClasses(), images, targets
        )
        - images
    )
    kernel = torch.zeros(9, 9, dtype=torch.float64)
    kernel[2:5, 4:7] = torch.tensor([[0.25, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 0.25]])
    shape = torch.tensor(TwoClasses.weight, dtype=torch.float64).view(1, 3, 1, 1) * kernel
    size = {"linf": None, "l2": 1, "rms": math.sqrt(3 * 9 * 9)}[norm]
    expected = shape.sign() if size is None else size * shape / shape.norm()
    torch.testing.assert_close(delta, expected * eps, rtol=0, atol=1e-7)


@pytest.mark.parametrize("inner", [AdaptiveStep(), NesterovStep(0.02), MomentumStep(0.02), SignStep(0.02)], ids=repr)
@NORMS
def test_smoothing_nothing_is_the_inner_rule(norm: str, inner: StepRule):
    model, (images, targets) = tiny_net(), tiny_batch()

    def attack(rule: StepRule) -> Tensor:
        # Best, over more steps than images stay without a look at which are finished.
        threat = ThreatModel(BALLS[norm][0], norm)
        return IterativeAttack(threat, CrossEntropy(), rule, 13, keep="best")(model, images, targets)

    assert torch.equal(attack(TranslationInvariantStep(inner, size=1)), attack(inner))


def test_adaptive_step_sees_smoothed_gradients():
    model, (images, targets) = tiny_net(), tiny_batch()
    threat = ThreatModel(0.06)

    class Smoothed(AdaptiveStep):
        def update(self, images_adv: Tensor, grad: Tensor, *rest: object) -> Tensor:
            table = literal.kernel_table("gaussian", 5)
            return super().update(images_adv, torch.stack([literal.smooth(one, table) for one in grad]), *rest)

    runs = [
        IterativeAttack(threat, CosPGDLoss(), rule, 8)(model, images, targets)
        for rule in (TranslationInvariantStep(AdaptiveStep(), size=5), Smoothed(), AdaptiveStep())
    ]
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=1e-12)
    assert not torch.allclose(runs[0], runs[2], atol=1e-3)


@NORMS
def test_look_ahead(norm: str):
    """A uniform gradient: divided by the mean of its absolute values it is its sign."""
    images = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)
    allowed = ThreatModel(1, norm).around(images)
    rule = NesterovStep("1/64", 0.5)
    state = rule.init(images, allowed, 3)
    assert torch.equal(rule.look_ahead(images, state, allowed), images)
    grad = torch.ones_like(images)
    grad[0], grad[1, 1] = 1e-6, -1
    rule.update(images, grad, torch.zeros(2), state, allowed)
    ahead = rule.look_ahead(images, state, allowed) - images
    length = 1 / math.sqrt(48) if norm == "l2" else 1
    torch.testing.assert_close(ahead, grad.sign() * 0.5 / 64 * length, rtol=0, atol=1e-15)
    rule.update(images, grad, torch.zeros(2), state, allowed)
    ahead = rule.look_ahead(images, state, allowed) - images
    torch.testing.assert_close(ahead, grad.sign() * 0.75 / 64 * length, rtol=0, atol=1e-15)


def test_points_of_the_gradient():
    """On a model whose gradients all have one length, step t looks ahead by α·μ·(1 + μ + … + μ^{t−2})·sign(w)."""
    images = torch.full((1, 3, 3, 3), 0.5, dtype=torch.float64)
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, :1] - x[:, 1:2] + x[:, 2:]], 1)

    steps: list[AttackStep] = []
    targets = torch.zeros(1, 3, 3, dtype=torch.long)
    NIFGSM(eps="1/4", step_size="1/64", steps=4, decay=0.5)(model, images, targets, on_step=steps.append)
    sign = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64).view(1, 3, 1, 1)
    for t, (point, step) in enumerate(zip(seen, steps, strict=True)):
        iterate = images + sign * t / 64
        torch.testing.assert_close(step.images_adv, iterate, rtol=0, atol=1e-12)
        memory = sum(0.5**k for k in range(t))
        torch.testing.assert_close(point, iterate + sign * 0.5 * memory / 64, rtol=0, atol=1e-12)
