"""What an attack does on a device: nothing lies elsewhere, and the host waits for it three times per call."""

import pytest
import torch
from torch import Tensor

from robustseg.attacks import Attack, AttackError
from tests.helpers.cases import partly
from tests.helpers.emulated import Emulation, OnDevice, put, to_device
from tests.helpers.nets import tiny_batch, tiny_net

from .table import LOOPS, ROWS, WITH_NORM, aims, build, first_or_own_norm

WAITS = 3
"""At the entry, after the first forward and at the end."""


def on_the_device(attack: Attack, images: Tensor, targets: Tensor, mode: str = "eval") -> tuple[Tensor, list[str]]:
    """Run an attack on the emulated device; return its result, and where the host waited."""
    net = put(tiny_net(images.dtype))
    with Emulation() as emulation:
        result = attack(net, to_device(images), to_device(targets), mode=mode)
    assert isinstance(result, OnDevice)
    return result.values, emulation.waits


@pytest.mark.parametrize(
    ("name", "norm", "targeted"),
    partly(
        [(name, norm, targeted) for name, norm in WITH_NORM for targeted in aims(name)],
        lambda name, norm, targeted: first_or_own_norm(name, norm) and (name in LOOPS or not targeted),
    ),
)
def test_attacks_stay_on_the_device_and_wait_three_times(name: str, norm: str, targeted: bool):
    images, targets = tiny_batch()
    attack = build(name, 0.05, norm, targeted=targeted)
    result, waits = on_the_device(attack, images, targets)
    assert torch.equal(result, attack(tiny_net(), images, targets))
    assert len(waits) <= WAITS + ROWS[name].looks, waits


@pytest.mark.parametrize("name", ["BIM best", "PGD", "CosPGD", "APGD", "PAdamCE", "NIFGSM best", "Square", "DAG", "CW"])
def test_waits_do_not_grow_with_the_steps_but_where_images_leave(name: str):
    attack = build(name, **({"norm": "linf"} if name == "CW" else {})).replace(steps=41)
    leaves = name in ("BIM best", "APGD", "NIFGSM best", "Square", "DAG", "CW")
    _, waits = on_the_device(attack, *tiny_batch())
    assert len(waits) <= WAITS + (5 if leaves else 0), waits


def test_an_image_without_a_valid_pixel_costs_no_wait_more():
    images, targets = tiny_batch()
    targets[1] = 255
    result, waits = on_the_device(build("PGD"), images, targets)
    assert torch.equal(result[1], images[1])
    assert len(waits) <= WAITS, waits


def test_batch_statistics_that_change_are_read_at_once():
    _, waits = on_the_device(build("PGD"), *tiny_batch(), mode="train")
    assert len(waits) <= WAITS + 1, waits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, targets: (images * 255, targets), r"divide 8-bit"),
        (lambda images, targets: (images, targets - 9), r"targets hold -9"),
        (lambda images, targets: (images, targets + 9), r"targets hold class 12 but the model has 4"),
        (lambda images, targets: (images * float("nan"), targets), r"not all finite"),
    ],
)
def test_bad_input_is_refused_by_the_same_words(change, message: str):
    with pytest.raises(AttackError, match=message):
        on_the_device(build("PGD", ignore_index=None), *change(*tiny_batch(ignored=False)))


class Elsewhere(Attack):
    """Makes something on the CPU, or waits, as no attack should."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def perturb(self, victim, images, targets, noise, on_step):
        self.fault(images)
        return images

    def describe(self):
        return {"attack": "Elsewhere"}


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x + torch.zeros(x.shape, dtype=x.dtype),
        lambda x: torch.where(torch.ones(x.shape, dtype=torch.bool), x, 0),
        lambda x: torch.cat([x, torch.zeros(x.shape)]),
        lambda x: x + torch.tensor([1.0], device=x.device),
    ],
)
def test_a_tensor_elsewhere_would_be_noticed(fault):
    with pytest.raises(RuntimeError, match="a tensor lies elsewhere"):
        on_the_device(Elsewhere(fault), *tiny_batch())


def test_a_copy_that_may_be_read_too_early_would_be_noticed():
    with pytest.raises(RuntimeError, match="may read this copy before it is there"):
        on_the_device(Elsewhere(lambda x: x.to("cpu", non_blocking=True)), *tiny_batch())


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: float(x.sum()),
        lambda x: x[x > 0],
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: torch.zeros(3).to(x.device),
        lambda x: x[torch.tensor([0])],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: torch.unique(x),
    ],
)
def test_a_wait_would_be_noticed(fault):
    _, before = on_the_device(Elsewhere(lambda x: None), *tiny_batch())
    _, waits = on_the_device(Elsewhere(fault), *tiny_batch())
    assert len(waits) == len(before) + 1
