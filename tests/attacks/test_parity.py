"""Agreement with two published implementations, where they define the same thing."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustseg import attacks
from robustseg.attacks import CosPGDLoss, CrossEntropy, IterativeAttack, SegPGDLoss, SignStep, ThreatModel
from tests.helpers.nets import CLASSES, tiny_batch, tiny_net

EPS, ALPHA, STEPS = 8 / 255, 2 / 255, 7


def segmentation_batch(dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor]:
    # The peers know no ignored pixels.
    images, targets = tiny_batch(dtype, batch=3, ignored=False)
    return tiny_net(dtype), images, targets


PAIRS = {
    "FGSM": ({"eps": EPS}, lambda: attacks.FGSM(eps=EPS)),
    "BIM": ({"eps": EPS, "alpha": ALPHA, "steps": STEPS}, lambda: attacks.BIM(eps=EPS, step_size=ALPHA, steps=STEPS)),
    "PGD": (
        {"eps": EPS, "alpha": ALPHA, "steps": STEPS, "random_start": False},
        lambda: attacks.PGD(eps=EPS, step_size=ALPHA, steps=STEPS, random_start=False),
    ),
    "PGDL2": (
        {"eps": 0.5, "alpha": 0.15, "steps": STEPS, "random_start": False},
        lambda: attacks.PGD(eps=0.5, step_size=0.15, steps=STEPS, norm="l2", random_start=False),
    ),
    # It divides by the mean of |∇| where the paper has the sum: every momentum is larger by the same factor.
    "MIFGSM": (
        {"eps": EPS, "alpha": ALPHA, "steps": STEPS, "decay": 0.8},
        lambda: attacks.MIFGSM(eps=EPS, step_size=ALPHA, steps=STEPS, decay=0.8),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_torchattacks(name: str):
    torchattacks = pytest.importorskip("torchattacks")
    settings, ours = PAIRS[name]
    model, images, targets = segmentation_batch(torch.float64)
    expected = getattr(torchattacks, name)(model, **settings)(images, targets)
    torch.testing.assert_close(ours()(model, images, targets), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["FGSM", "BIM", "PGD", "MIFGSM"])
def test_torchattacks_in_single_precision(name: str):
    torchattacks = pytest.importorskip("torchattacks")
    settings, ours = PAIRS[name]
    model, images, targets = segmentation_batch(torch.float32)
    expected = getattr(torchattacks, name)(model, **settings)(images, targets)
    difference = (ours()(model, images, targets) - expected).abs()
    # A gradient that is zero but for rounding may take the other sign; nowhere else may anything differ.
    assert float((difference > 1e-6).double().mean()) < 0.005


def test_torchattacks_from_the_same_random_start(monkeypatch: pytest.MonkeyPatch):
    torchattacks = pytest.importorskip("torchattacks")
    model, images, targets = segmentation_batch(torch.float64)
    steps: list[attacks.AttackStep] = []
    actual = attacks.PGD(eps=EPS, step_size=ALPHA, steps=STEPS, seed=4)(model, images, targets, on_step=steps.append)
    noise = steps[0].images_adv - images
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "uniform_", lambda self, low, high: self.copy_(noise))
        expected = torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=STEPS)(images, targets)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


def test_torchattacks_targeted():
    torchattacks = pytest.importorskip("torchattacks")
    model, images, targets = segmentation_batch(torch.float64)
    wanted = (targets + 1) % CLASSES
    peer = torchattacks.BIM(model, eps=EPS, alpha=ALPHA, steps=STEPS)
    peer.set_mode_targeted_by_label(quiet=True)
    actual = attacks.BIM(eps=EPS, step_size=ALPHA, steps=STEPS, targeted=True)(model, images, wanted)
    torch.testing.assert_close(actual, peer(images, wanted), rtol=0, atol=1e-9)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("iteration", [0, 2, 4])
def test_cospgd_package_losses(iteration: int, targeted: bool):
    """Its λ counts from 0, as (t−1)/2T does; it averages over batch×pixels or sums, ours is one sum per image."""
    functions = pytest.importorskip("cospgd").functions
    generator = torch.Generator().manual_seed(iteration)
    logits = 3 * torch.randn(2, CLASSES, 5, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(CLASSES, (2, 5, 6), generator=generator)
    pixels = F.cross_entropy(logits, targets, reduction="none")
    segpgd = functions.segpgd_scale(logits, targets, pixels, iteration, 5, targeted)
    ours = SegPGDLoss()(logits, targets, iteration / 5, targeted)
    torch.testing.assert_close(ours.sum() / 30, segpgd, rtol=1e-10, atol=0)
    cospgd = functions.cospgd_scale(logits, targets, pixels, CLASSES, targeted)
    ours = CosPGDLoss()(logits, targets, iteration / 5, targeted)
    torch.testing.assert_close(ours, cospgd.flatten(1).sum(1), rtol=1e-7, atol=0)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["segpgd", "cospgd", "ce"])
def test_cospgd_package_loop(loss: str, norm: str, targeted: bool):
    """Its steps and losses in a loop around the same model, from the clean image."""
    functions = pytest.importorskip("cospgd").functions
    model, images, targets = segmentation_batch(torch.float64)
    eps, alpha = torch.tensor((EPS, ALPHA) if norm == "linf" else (0.5, 0.15), dtype=torch.float64)
    expected = images.clone()
    for iteration in range(STEPS):
        expected.requires_grad_()
        logits = model(expected)
        pixels = F.cross_entropy(logits, targets, reduction="none")
        if loss == "segpgd":
            value = functions.segpgd_scale(logits, targets, pixels, iteration, STEPS, targeted)
        elif loss == "cospgd":
            value = functions.cospgd_scale(logits, targets, pixels, CLASSES, targeted).mean()
        else:
            value = pixels.mean()
        grad = torch.autograd.grad(value, expected)[0]
        step = functions.step_inf if norm == "linf" else functions.step_l2
        expected = step(expected, eps, grad, images, alpha, targeted)
    ours = {"segpgd": SegPGDLoss(), "cospgd": CosPGDLoss(), "ce": CrossEntropy()}[loss]
    attack = IterativeAttack(
        ThreatModel(float(eps), norm), ours, SignStep(float(alpha)), STEPS, random_start=False, targeted=targeted
    )
    torch.testing.assert_close(attack(model, images, targets), expected, rtol=0, atol=1e-9)
