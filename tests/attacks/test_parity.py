"""Agreement with two published implementations, where they define the same thing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustseg import attacks
from robustseg.attacks import CosPGDLoss, CrossEntropy, IterativeAttack, SegPGDLoss, SignStep, ThreatModel
from tests.helpers.nets import CLASSES, tiny_batch, tiny_net

from .comparison import FixedDraws

EPS, ALPHA, STEPS = 8 / 255, 2 / 255, 7


def segmentation_batch(dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor]:
    # The peers know no ignored pixels.
    images, targets = tiny_batch(dtype, batch=3, ignored=False)
    return tiny_net(dtype), images, targets


LOOP = {"eps": EPS, "alpha": ALPHA, "steps": STEPS}
OURS = {"eps": EPS, "step_size": ALPHA, "steps": STEPS}
PAIRS: dict[str, tuple[dict, Callable[[], attacks.Attack]]] = {
    "FGSM": ({"eps": EPS}, lambda: attacks.FGSM(eps=EPS)),
    "BIM": (LOOP, lambda: attacks.BIM(**OURS)),
    "PGD": ({**LOOP, "random_start": False}, lambda: attacks.PGD(**OURS, random_start=False)),
    "PGDL2": (
        {"eps": 0.5, "alpha": 0.15, "steps": STEPS, "random_start": False},
        lambda: attacks.PGD(eps=0.5, step_size=0.15, steps=STEPS, norm="l2", random_start=False),
    ),
    # It divides by the mean of |∇| where the paper has the sum: every momentum is larger by the same factor.
    "MIFGSM": ({**LOOP, "decay": 0.8}, lambda: attacks.MIFGSM(**OURS, decay=0.8)),
    "NIFGSM": ({**LOOP, "decay": 0.9}, lambda: attacks.NIFGSM(**OURS, decay=0.9)),
    "DIFGSM": (
        {**LOOP, "decay": 0.8, "diversity_prob": 0},
        lambda: attacks.DIFGSM(**OURS, decay=0.8, diversity_prob=0),
    ),
    "TIFGSM": (
        {**LOOP, "decay": 0.8, "diversity_prob": 0, "len_kernel": 5},
        lambda: attacks.TIFGSM(**OURS, decay=0.8, kernel_size=5),
    ),
    "TIFGSM gaussian": ({**LOOP, "diversity_prob": 0}, lambda: attacks.TIFGSM(**OURS)),
    "TIFGSM linear": (
        {**LOOP, "diversity_prob": 0, "kernel_name": "linear", "len_kernel": 7, "decay": 1.0},
        lambda: attacks.TIFGSM(**OURS, kernel="linear", kernel_size=7, decay=1),
    ),
    "TIFGSM uniform": (
        {**LOOP, "diversity_prob": 0, "kernel_name": "uniform", "len_kernel": 3},
        lambda: attacks.TIFGSM(**OURS, kernel="uniform", kernel_size=3),
    ),
}


def peer(name: str, model: nn.Module, dtype: torch.dtype, settings: dict) -> Callable:
    """torchattacks' attack, with its kernel in the precision of the images."""
    torchattacks = pytest.importorskip("torchattacks")
    attack = getattr(torchattacks, name.split()[0])(model, **settings)
    if name.startswith("TIFGSM"):
        make = {"gaussian": attack.gkern, "linear": attack.lkern, "uniform": attack.ukern}[attack.kernel_name]
        sizes = (attack.len_kernel, attack.nsig) if attack.kernel_name == "gaussian" else (attack.len_kernel,)
        attack.stacked_kernel = torch.from_numpy(make(*sizes)).to(dtype).expand(3, 1, -1, -1)
    return attack


@pytest.mark.parametrize("name", PAIRS)
def test_torchattacks(name: str):
    settings, ours = PAIRS[name]
    model, images, targets = segmentation_batch(torch.float64)
    expected = peer(name, model, torch.float64, settings)(images, targets)
    torch.testing.assert_close(ours()(model, images, targets), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "PGDL2"])
def test_torchattacks_in_single_precision(name: str):
    settings, ours = PAIRS[name]
    model, images, targets = segmentation_batch(torch.float32)
    difference = (ours()(model, images, targets) - peer(name, model, torch.float32, settings)(images, targets)).abs()
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


@pytest.mark.parametrize("name", ["BIM", "NIFGSM"])
def test_torchattacks_targeted(name: str):
    model, images, targets = segmentation_batch(torch.float64)
    wanted = (targets + 1) % CLASSES
    other = peer(name, model, torch.float64, LOOP)
    other.set_mode_targeted_by_label(quiet=True)
    actual = getattr(attacks, name)(**OURS, targeted=True)(model, images, wanted)
    torch.testing.assert_close(actual, other(images, wanted), rtol=0, atol=1e-9)


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


@contextmanager
def recorded_draws(seed: int, scalars: list[float]) -> Iterator[None]:
    """Random numbers of torchattacks' input diversity, appended to ``scalars`` as the draws that mean the same here."""
    generator = torch.Generator().manual_seed(seed)
    original_randint, original_rand = torch.randint, torch.rand
    drawn: list[tuple[int, int, int]] = []

    def randint(low: int, high: int, size: tuple, dtype: torch.dtype) -> Tensor:
        drawn.append((low, high, int(original_randint(low, high, (), generator=generator))))
        return torch.tensor([drawn[-1][-1]], dtype=dtype)

    def rand(count: int) -> Tensor:
        applied = original_rand(count, generator=generator)
        (low, high, size), (_, rows, top), (_, columns, left) = drawn
        drawn.clear()
        scalars.append(float(applied))
        if float(applied) < 0.7:
            # Here the offset may also be the number of rows or columns that are left.
            scalars.extend(((size - low + 0.5) / (high - low), (top + 0.5) / (rows + 1), (left + 0.5) / (columns + 1)))
        return applied

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randint", randint)
        patch.setattr(torch, "rand", rand)
        yield


@pytest.mark.parametrize("rate", [0.6, 1.5])
@pytest.mark.parametrize("name", ["DIFGSM", "TIFGSM"])
def test_torchattacks_with_the_same_random_sizes(name: str, rate: float):
    """A classifier, and the model that gives its answer at every pixel: the loss of an image is the same but for a
    factor, wherever its pixels are moved."""
    generator = torch.Generator().manual_seed(6)
    images = torch.rand(1, 3, 12, 12, generator=generator, dtype=torch.float64)
    classify = nn.Sequential(tiny_net(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()

    def segment(x: Tensor) -> Tensor:
        return classify(x)[:, :, None, None].expand(-1, -1, *x.shape[-2:])

    scalars: list[float] = []
    settings = {**LOOP, "decay": 0.8, "diversity_prob": 0.7, "resize_rate": rate}
    other = peer(name, classify, torch.float64, settings)
    with recorded_draws(3, scalars):
        expected = other(images, torch.tensor([2]))
    assert 7 < len(scalars) < 28, "some steps are diverse and some are not, or this tests less than it says"
    ours = getattr(attacks, name)(**OURS, decay=0.8, diversity_prob=0.7, resize_rate=rate)
    actual = ours(segment, images, torch.full((1, 12, 12), 2), generator=FixedDraws(scalars))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)
