"""What an attack costs: T forwards and T input gradients."""

import pytest

from robustseg.attacks import DS, FGSM, PGD, Attack
from tests.helpers.cases import partly
from tests.helpers.nets import CountingNet, tiny_batch, tiny_net

from .table import LOOPS, ROWS, WITH_NORM, aims, build


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
