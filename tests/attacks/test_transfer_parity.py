"""Agreement of the transfer attacks with torchattacks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import (
    DIFGSM,
    NIFGSM,
    TIFGSM,
)
from tests.helpers.nets import CLASSES, tiny_batch, tiny_net

from .comparison import FixedDraws

EPS, ALPHA = 8 / 255, 2 / 255
PEERS = {
    "NIFGSM": ({"decay": 0.9}, lambda **kw: NIFGSM(eps=EPS, step_size=ALPHA, steps=7, decay=0.9, **kw)),
    "DIFGSM": (
        {"decay": 0.8, "diversity_prob": 0},
        lambda **kw: DIFGSM(eps=EPS, step_size=ALPHA, steps=7, decay=0.8, diversity_prob=0, **kw),
    ),
    "TIFGSM": (
        {"decay": 0.8, "diversity_prob": 0, "len_kernel": 5},
        lambda **kw: TIFGSM(eps=EPS, step_size=ALPHA, steps=7, decay=0.8, kernel_size=5, **kw),
    ),
    "TIFGSM ": ({"diversity_prob": 0}, lambda **kw: TIFGSM(eps=EPS, step_size=ALPHA, steps=7, **kw)),
    "TIFGSM linear": (
        {"diversity_prob": 0, "kernel_name": "linear", "len_kernel": 7, "decay": 1.0},
        lambda **kw: TIFGSM(eps=EPS, step_size=ALPHA, steps=7, kernel="linear", kernel_size=7, decay=1, **kw),
    ),
    "TIFGSM uniform": (
        {"diversity_prob": 0, "kernel_name": "uniform", "len_kernel": 3},
        lambda **kw: TIFGSM(eps=EPS, step_size=ALPHA, steps=7, kernel="uniform", kernel_size=3, **kw),
    ),
}


def peer(name: str, model: nn.Module, dtype: torch.dtype, settings: dict) -> Callable:
    """torchattacks' attack, with its kernel in the precision of the images."""
    torchattacks = pytest.importorskip("torchattacks")
    attack = getattr(torchattacks, name.split()[0])(model, eps=EPS, alpha=ALPHA, steps=7, **settings)
    if name.startswith("TIFGSM"):
        make = {"gaussian": attack.gkern, "linear": attack.lkern, "uniform": attack.ukern}[attack.kernel_name]
        sizes = (attack.len_kernel, attack.nsig) if attack.kernel_name == "gaussian" else (attack.len_kernel,)
        attack.stacked_kernel = torch.from_numpy(make(*sizes)).to(dtype).expand(3, 1, -1, -1)
    return attack


@pytest.mark.parametrize("name", PEERS)
def test_torchattacks(name: str):
    settings, ours = PEERS[name]
    images, targets = tiny_batch(batch=3, ignored=False)
    expected = peer(name, tiny_net(), torch.float64, settings)(images, targets)
    torch.testing.assert_close(ours()(tiny_net(), images, targets), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", PEERS)
def test_torchattacks_in_single_precision(name: str):
    settings, ours = PEERS[name]
    images, targets = tiny_batch(torch.float32, batch=3, ignored=False)
    model = tiny_net(torch.float32)
    difference = (ours()(model, images, targets) - peer(name, model, torch.float32, settings)(images, targets)).abs()
    # A gradient that is zero but for rounding may take the other sign; nowhere else may anything differ.
    assert float((difference > 1e-6).double().mean()) < 0.005


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
    settings = {"decay": 0.8, "diversity_prob": 0.7, "resize_rate": rate}
    other = peer(name, classify, torch.float64, settings)
    with recorded_draws(3, scalars):
        expected = other(images, torch.tensor([2]))
    assert 7 < len(scalars) < 28, "some steps are diverse and some are not, or this tests less than it says"
    preset = {"DIFGSM": DIFGSM, "TIFGSM": TIFGSM}[name]
    ours = preset(eps=EPS, step_size=ALPHA, steps=7, decay=0.8, diversity_prob=0.7, resize_rate=rate)
    actual = ours(segment, images, torch.full((1, 12, 12), 2), generator=FixedDraws(scalars))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


def test_torchattacks_targeted():
    images, targets = tiny_batch(batch=3, ignored=False)
    wanted = (targets + 1) % CLASSES
    other = peer("NIFGSM", tiny_net(), torch.float64, {})
    other.set_mode_targeted_by_label(quiet=True)
    actual = NIFGSM(eps=EPS, step_size=ALPHA, steps=7, targeted=True)(tiny_net(), images, wanted)
    torch.testing.assert_close(actual, other(images, wanted), rtol=0, atol=1e-9)
