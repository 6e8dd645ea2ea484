"""`trainer.deterministic: true`: no shipped network calls what has no deterministic implementation on CUDA."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustseg.attacks import PGD, TransferAttack
from robustseg.detectors import ThroughBlur
from robustseg.models import SegmentationModel
from robustseg.models.catalogue import catalogue, classes

RAISES = (
    *("adaptive_avg_pool2d_backward", "avg_pool3d_backward", "adaptive_max_pool2d_backward", "fractional_max_pool2d"),
    *("max_unpool", "upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward"),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "ctc_loss_backward", "put_", "histc", "median.dim"),
    *("kthvalue", "grid_sampler_2d_backward", "scatter_reduce", "max_pool3d_with_indices_backward"),
)
"""Operators of the documentation of torch.use_deterministic_algorithms that raise on CUDA; losses are never reduced."""
_ONE_SIZE = ("_small", "_lraspp", "_unet_r34", "_deeplabv3_r50")
NETWORKS = ["pspnet_small", *(name for name in catalogue() if name.endswith(_ONE_SIZE) and name != "pspnet_small")]
"""One network of each architecture, and of those of other libraries each that is shipped."""


class Called(TorchDispatchMode):
    """Names of the operators that have run, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func).removeprefix("aten.").lstrip("_"))
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def refused(called: Called) -> set[str]:
    return {name for name in called.names if any(name.startswith(of) for of in RAISES)}


def step(network: nn.Module, side: int = 64) -> set[str]:
    """The refused operators that two attacks and an update of a network call."""
    model = SegmentationModel(network)
    images, targets = torch.rand(2, 3, side, side + 32), torch.randint(4, (2, side, side + 32))
    with Called() as called:
        attack = TransferAttack(steps=1, diversity_prob=1.0, scale_range=0.5, kernel_size=3)
        images_adv = attack(model, PGD(steps=1)(model, images, targets), targets)
        logits, aux = model.train().forward_with_aux(images_adv)
        loss = sum(
            nn.functional.cross_entropy(each, targets, reduction="none").mean()
            for each in (logits, aux)
            if each is not None
        )
        loss.backward()
    assert any(name.startswith("convolution_backward") for name in called.names)
    return refused(called)


@pytest.mark.parametrize(
    "name", ["pspnet_small", *(pytest.param(each, marks=pytest.mark.exhaustive) for each in NETWORKS[1:])]
)
def test_no_network_calls_what_raises_on_cuda(name):
    variant = catalogue()[name]
    arguments = {key: value for key, value in variant.init_args.items() if key not in ("pretrained", "weights")}
    network = classes()[variant.network](4, **arguments)
    # Of other projects' code: torch.nn.functional.interpolate computes in another, deterministic way where it must.
    allowed = {"upsample_bilinear2d_backward.default"} if hasattr(network, "library") else set()
    assert step(network) <= allowed


def test_the_operators_of_torch_are_found():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(2), nn.Upsample((8, 8), mode="bilinear"))
    with Called() as called:
        network(torch.rand(1, 3, 9, 9)).sum().backward()
    assert {name.partition(".")[0] for name in refused(called)} == {
        "adaptive_avg_pool2d_backward",
        "upsample_bilinear2d_backward",
    }


def test_no_blur_calls_what_raises_on_cuda():
    model = nn.Conv2d(3, 4, 1)
    with Called() as called:
        ThroughBlur(PGD(steps=1), sigma=1.0)(model, torch.rand(1, 3, 16, 16), torch.zeros(1, 16, 16, dtype=torch.long))
    assert refused(called) == set()
