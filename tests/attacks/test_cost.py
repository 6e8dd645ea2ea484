"""What an attack costs: T forwards and T input gradients, and nothing that waits for the device in between."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from robustseg.attacks import DS, FGSM, PGD, Attack, AttackStep
from tests.helpers.cases import partly
from tests.helpers.nets import CountingNet, tiny_batch, tiny_net

from .table import LOOPS, ROWS, WITH_NORM, aims, build, first_or_own_norm


@pytest.mark.parametrize(
    ("name", "norm", "targeted"),
    partly(
        [(name, norm, targeted) for name, norm in WITH_NORM for targeted in aims(name)],
        lambda name, norm, targeted: norm == ROWS[name].norms[0] and (name in LOOPS or not targeted),
    ),
)
def test_forwards_and_backwards(name: str, norm: str, targeted: bool):
    model = CountingNet(tiny_net())
    images, targets = tiny_batch()
    result = build(name, 0.05, norm, targeted=targeted).run(model, images, targets)
    if ROWS[name].cost is not None:
        assert [*zip(result.forwards.tolist(), result.backwards.tolist(), strict=True)] == [ROWS[name].cost] * 2
    assert model.forwards >= int(result.forwards.max())
    assert model.backwards >= int(result.backwards.max())
    assert model.forwards * 2 >= int(result.forwards.sum())
    assert model.weight_gradients == 0


def test_counting_net_would_notice_weight_gradients():
    model = CountingNet(tiny_net())
    images, _ = tiny_batch()
    model(images.requires_grad_()).sum().backward()
    assert model.backwards == 1
    assert model.weight_gradients == len([*model.parameters()])


def test_parameters_are_frozen_during_the_attack():
    """Under torch.compile weight gradients would be computed otherwise."""
    model, (images, targets) = tiny_net(), tiny_batch()
    seen: list[bool] = []
    build("PGD")(
        lambda x: model(x), images, targets, on_step=lambda step: seen.append(next(model.parameters()).requires_grad)
    )
    build("PGD")(
        model, images, targets, on_step=lambda step: seen.append(any(p.requires_grad for p in model.parameters()))
    )
    assert seen == [False] * 6


@pytest.mark.parametrize("attack", [PGD(eps=0, steps=3), FGSM(eps=0), DS(eps=0, steps=3)], ids=repr)
def test_radius_zero_costs_nothing(attack: Attack):
    model = CountingNet(tiny_net())
    attack(model, *tiny_batch())
    assert model.forwards == 0


class Waits(TorchDispatchMode):
    """Records operations that would make the host wait for the device, while it is armed."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "item")

    def __init__(self) -> None:
        super().__init__()
        self.armed = False
        self.waits: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indexed_by_mask = name == "index" and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if self.armed and (indexed_by_mask or name.rstrip("_") in self.WAITING or "unique" in name):
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


# Dynamic scale reads its scale from a generator on the CPU, which on a CPU cannot be told from a wait.
@pytest.mark.parametrize(
    ("name", "norm"), partly([case for case in WITH_NORM if not ROWS[case[0]].waits], first_or_own_norm)
)
def test_nothing_waits_for_the_device_within_the_loop(name: str, norm: str):
    model, (images, targets) = tiny_net(), tiny_batch()
    attack = build(name, 0.05, norm)
    with Waits() as watch:

        def arm(step: AttackStep) -> None:
            # From the first gradient of a restart to its last one: what it has reached may be looked at.
            watch.armed = step.step != step.steps

        attack(model, images, targets, on_step=arm)
    assert watch.waits == []


@pytest.mark.parametrize("wait", [lambda x: float(x.sum()), lambda x: x[x > 0], lambda x: bool((x > 0).any())])
def test_waits_would_be_noticed(wait):
    with Waits() as watch:
        watch.armed = True
        wait(torch.randn(5))
    assert watch.waits
