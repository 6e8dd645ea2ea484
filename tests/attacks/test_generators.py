"""Torch's global generators on all devices in use are as before an attack; the devices are imitated."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import PGD
from robustseg.attacks.generators import global_generators
from tests.helpers.nets import tiny_batch, tiny_net


class Drawing(nn.Module):
    """Draws from generators in its forward, as dropout on several devices does."""

    def __init__(self, net: nn.Module, generators: list[torch.Generator]):
        super().__init__()
        self.net, self.generators = net, generators

    def forward(self, images: Tensor) -> Tensor:
        for generator in self.generators:
            torch.rand((), generator=generator)
        logits: Tensor = self.net(images)
        return logits


class Functions:
    """An accelerator's module that has functions in place of generators, as torch.mps does."""

    def __init__(self, generators: list[torch.Generator]):
        self.generators = generators

    def device_count(self) -> int:
        return len(self.generators)

    def get_rng_state(self, device: int) -> Tensor:
        return self.generators[device].get_state()

    def set_rng_state(self, state: Tensor, device: int) -> None:
        self.generators[device].set_state(state)

    def manual_seed(self, seed: int) -> None:
        for generator in self.generators:
            generator.manual_seed(seed)


def fresh(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(count)]


def imitate(monkeypatch: pytest.MonkeyPatch, kind: str, generators: list[torch.Generator], initialised: bool) -> None:
    """Put a module with these devices in the place of torch's."""
    if kind in ("cuda", "xpu"):
        module = SimpleNamespace(
            is_initialized=lambda: initialised,
            device_count=lambda: len(generators),
            default_generators=tuple(generators),
            current_device=lambda: 0,
        )
    else:
        module = Functions(generators)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch, kind, module, raising=False)


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps", "mtia"])
@pytest.mark.parametrize("fails", [False, True])
def test_generators_of_all_devices_are_restored(kind: str, fails: bool, monkeypatch: pytest.MonkeyPatch):
    devices = fresh(3)
    imitate(monkeypatch, kind, devices, True)
    model, (images, targets) = Drawing(tiny_net(), [torch.default_generator, *devices]), tiny_batch()
    before = [generator.get_state() for generator in (torch.default_generator, *devices)]
    if fails:
        with pytest.raises(Exception, match="raised ZeroDivisionError"):
            PGD(steps=2)(nn.Sequential(model, Failing()), images, targets)
    else:
        PGD(steps=2)(model, images, targets)
    after = [generator.get_state() for generator in (torch.default_generator, *devices)]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


class Failing(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        raise ZeroDivisionError


def test_an_accelerator_that_nothing_uses_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    imitate(monkeypatch, "cuda", fresh(2), False)
    assert global_generators() == [torch.default_generator]


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_each_generator_is_always_the_same_object(kind: str, monkeypatch: pytest.MonkeyPatch):
    """Attacks of several threads tell them apart by their identity."""
    imitate(monkeypatch, kind, fresh(2), True)
    first, second = global_generators(), global_generators()
    assert len(first) == 3
    assert all(a is b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_all_are_seeded(kind: str, monkeypatch: pytest.MonkeyPatch):
    devices = fresh(2)
    imitate(monkeypatch, kind, devices, True)
    for generator in global_generators()[1:]:
        generator.manual_seed(77)
    assert [device.initial_seed() for device in devices] == [77, 77]
