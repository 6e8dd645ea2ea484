"""Projected Adam: closed form, torch's Adam as the peer, the literal loop, precision, and defects to be found."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustseg import attacks
from robustseg.attacks import AdamStep, AttackStep, CrossEntropy, IterativeAttack, PAdamCE, PAdamCos, ThreatModel
from tests.helpers.nets import CLASSES, tiny_batch, tiny_net

from .comparison import BALLS, check_attack
from .defects import Defect, around, found_by, replaced
from .reference import steepest
from .reference_padam import Coordinate
from .test_closed_form import IMAGES, LABELS, linear_model, slopes

Patch = pytest.MonkeyPatch
EPS, ALPHA = 8 / 255, 2 / 255


def test_first_step_has_length_alpha_along_the_sign():
    attack = PAdamCE(eps="1/4", step_size="1/8", steps=1, random_start=False)
    images_adv = attack(linear_model(), IMAGES, LABELS)
    # α·g/(|g| + 1e-8), of gradients of at least 1/8.
    torch.testing.assert_close(images_adv, IMAGES + slopes(0.75, -0.25).sign() / 8, rtol=0, atol=1e-8)
    assert torch.equal(images_adv[0, :, 1, 1], IMAGES[0, :, 1, 1])


def test_first_l2_step_has_length_alpha():
    attack = PAdamCE(eps=0.5, step_size="1/8", steps=1, norm="l2", random_start=False)
    delta = attack(linear_model(), IMAGES, LABELS) - IMAGES
    torch.testing.assert_close(delta.flatten(1).norm(dim=1), torch.full((2,), 0.125).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        delta / delta.abs().amax(), slopes(0.75, -0.25).sign().double() * ratio(delta), atol=1e-7, rtol=0
    )


def ratio(delta: Tensor) -> Tensor:
    """Image 1 has fewer pixels with a gradient, so that its steps of the same length are larger in each."""
    return (delta.abs().flatten(1).amax(1) / delta.abs().amax()).view(2, 1, 1, 1)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("amsgrad", [True, False])
def test_step_rule(norm: str, amsgrad: bool, monkeypatch: Patch):
    eps, alpha = BALLS[norm]
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    allowed = ThreatModel(eps, norm).around(images)
    rule = AdamStep(alpha, amsgrad=amsgrad)
    state = rule.init(images, allowed, 6)
    memory = [[Coordinate() for _ in range(60)] for _ in range(2)]
    current = images.clone()
    # Squares that fall, so that AMSGrad's memory counts, in images of very different gradients.
    for size in (1.0, 30.0, 0.1, 0.01, 1.0, 0.001):
        spread = size * torch.tensor([1e-7, 3.0], dtype=torch.float64).view(2, 1, 1, 1)
        grad = torch.randn(images.shape, generator=generator, dtype=torch.float64) * spread
        grad[:, :, 0] = 0
        moved = rule.update(current, grad, torch.zeros(2), state, allowed)
        for b in range(2):
            if not amsgrad:
                for coordinate in memory[b]:
                    coordinate.squares = [0.0]
            direction = [c.direction(g) for c, g in zip(memory[b], grad[b].flatten().tolist(), strict=True)]
            direction = direction if norm == "linf" else steepest(direction, norm)
            expected = [x + alpha * d for x, d in zip(current[b].flatten().tolist(), direction, strict=True)]
            assert moved[b].flatten().tolist() == pytest.approx(expected, rel=1e-11, abs=1e-12)
        current = moved


@pytest.mark.parametrize("norm", BALLS)
def test_no_gradient_means_no_step(norm: str):
    images = torch.full((2, 3, 2, 2), 0.5)
    allowed = ThreatModel("1/4", norm).around(images)
    rule = AdamStep("1/8")
    moved = rule.update(images, torch.zeros_like(images), torch.zeros(2), rule.init(images, allowed, 1), allowed)
    assert torch.equal(moved, images)


@pytest.mark.parametrize("scale", [3e4, 1e-4])
def test_squares_neither_overflow_nor_underflow_in_half_precision(scale: float):
    images = torch.full((1, 3, 8, 8), 0.5, dtype=torch.float16)
    grad = torch.full_like(images, scale)
    allowed = ThreatModel("1/4").around(images)
    rule = AdamStep("1/8")
    moved = rule.update(images, grad, torch.zeros(1), rule.init(images, allowed, 1), allowed)
    assert moved.dtype == torch.float16
    torch.testing.assert_close(moved, images + 1 / 8, rtol=0, atol=1e-3)


def cosine_distance(logits: Tensor, targets: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(logits, F.one_hot(targets, CLASSES).movedim(-1, 1).to(logits.dtype))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def projected_adam(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    start: Tensor,
    pixels: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    reduce: str = "sum",
    targeted: bool = False,
) -> Tensor:
    """The attack as torch's optimiser does it: Adam with AMSGrad on the perturbation, clipped after each step."""
    delta = (start - images).clone().requires_grad_()
    adam = torch.optim.Adam([delta], lr=ALPHA, amsgrad=True, maximize=not targeted)
    for _ in range(steps):
        value = pixels(model(images + delta), targets)
        (delta.grad,) = torch.autograd.grad(value.sum() if reduce == "sum" else value.mean(), delta)
        adam.step()
        with torch.no_grad():
            delta.clamp_(-EPS, EPS)
            delta.copy_((images + delta).clamp(0, 1) - images)
    return (images + delta).detach()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("preset", "pixels"), [(PAdamCE, cross_entropy), (PAdamCos, cosine_distance)], ids=["PAdamCE", "PAdamCos"]
)
def test_adam_of_torch(preset: type[IterativeAttack], pixels: Callable[[Tensor, Tensor], Tensor], targeted: bool):
    model, (images, targets) = tiny_net(), tiny_batch(batch=3, ignored=False)
    seen: list[AttackStep] = []
    attack = preset(eps=EPS, step_size=ALPHA, steps=25, targeted=targeted, seed=5)
    actual = attack(model, images, targets, on_step=seen.append)
    assert not torch.equal(seen[0].images_adv, images)
    expected = projected_adam(model, images, targets, seen[0].images_adv, pixels, 25, targeted=targeted)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


def test_mean_of_the_public_code_is_a_larger_stabiliser():
    """The mean over N pixels with 1e-8 equals our sum with N·1e-8, here large enough to be seen."""
    model, (images, targets) = tiny_net(), tiny_batch(batch=1, ignored=False)

    def saturated(x: Tensor) -> Tensor:
        return 1e-6 * model(x)

    expected = projected_adam(saturated, images, targets, images, cross_entropy, 10, "mean")

    def ours(stabiliser: float) -> Tensor:
        rule = AdamStep(ALPHA, stabiliser=stabiliser)
        attack = IterativeAttack(ThreatModel(EPS), CrossEntropy(), rule, 10, random_start=False)
        return attack(saturated, images, targets)

    torch.testing.assert_close(ours(1e-8 * targets.numel()), expected, rtol=0, atol=1e-9)
    assert float((ours(1e-8) - expected).abs().max()) > 1e-3


def test_defaults_are_those_of_the_paper():
    described = PAdamCE().describe()
    assert described["eps"] == "8/255"
    assert described["steps"] == 200
    assert described["random_start"] is True
    assert described["keep"] == "last"
    assert described["loss"] == {"class": "CrossEntropy"}
    assert described["step_rule"] == {
        "class": "AdamStep", "step_size": "2/255", "beta1": 0.9, "beta2": 0.999, "stabiliser": 1e-8, "amsgrad": True
    }  # fmt: skip
    assert PAdamCos().describe() == described | {"attack": "PAdamCos", "loss": {"class": "LogitCosine"}}


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: AdamStep(0), "step_size = 0 moves nothing"),
        (lambda: AdamStep(beta1=1), r"beta1 = 1 is outside of \[0, 1\): Adam uses 0.9 and 0.999"),
        (lambda: AdamStep(beta2=-0.1), r"beta2 = -0.1 is outside"),
        (lambda: AdamStep(beta2=math.nan), r"beta2 = nan is outside"),
        (lambda: AdamStep(stabiliser=0), r"stabiliser = 0 is not positive"),
        (lambda: AdamStep(stabiliser=math.nan), r"stabiliser = nan is not positive"),
    ],
)
def test_bad_settings(create: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        create()


# Defects that the comparison with the literal loop must find.


def rule(**changed: object) -> Defect:
    return around(AdamStep, "__init__", lambda original, self, step_size: original(self, step_size, **changed))


def update_with(change: Callable[[AdamStep, Tensor, Tensor, dict, object], Tensor]) -> Defect:
    """Another gradient, or another state that is changed in its place."""

    def update(original: Callable, self: AdamStep, images_adv, grad, loss, state, allowed) -> Tensor:
        return original(self, images_adv, change(self, images_adv, grad, state, allowed), loss, state, allowed)

    return around(AdamStep, "update", update)


test_defect_is_found = found_by(
    check_attack,
    {
        "without AMSGrad": (rule(amsgrad=False), "PAdamCE", ("PAdamCos", "linf", True)),
        "without momentum": (rule(beta1=0.0), "PAdamCE"),
        "another second decay": (rule(beta2=0.99), "PAdamCE"),
        "large stabiliser": (rule(stabiliser=1e-3), "PAdamCos"),
        "no bias correction": (
            update_with(lambda self, x, grad, state, allowed: state.update(taken=10**6) or grad),
            "PAdamCE",
        ),
        "forget the moments": (
            update_with(lambda self, x, grad, state, allowed: state.update(self.init(x, allowed, 1)) or grad),
            ("PAdamCE", "l2"),
        ),
        "moments of the batch": (
            update_with(lambda self, x, grad, state, allowed: grad.mean(0, keepdim=True).expand_as(grad)),
            ("PAdamCE", "linf", True),
        ),
        "masked cosine": (
            replaced(attacks.LogitCosine, "per_pixel", attacks.MaskedSpherical.per_pixel),
            "PAdamCos",
        ),
    },
)
