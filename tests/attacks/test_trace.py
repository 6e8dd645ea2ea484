"""An attack leaves no trace: model, autograd and global random states are as before, whatever happens."""

import random
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import AttackError
from tests.helpers.cases import partly
from tests.helpers.nets import CLASSES, TinyNet, tiny_batch, tiny_net

from .table import ATTACKS, LOOPS, ROWS, build

# What goes on around an attack is the same code for all: the default run takes one of each loop.
every_attack = pytest.mark.parametrize("name", partly(ATTACKS, LOOPS.__contains__))


class Restless(nn.Module):
    """Everything that could be changed: BatchNorm (one frozen), dropout, a buffer that is replaced by assignment."""

    def __init__(self, fail_at: int | None = None):
        super().__init__()
        self.body = TinyNet()
        self.dropout = nn.Dropout(0.3)
        self.register_buffer("average", torch.zeros(3))
        self.fail_at = fail_at
        self.forwards = 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        if self.forwards == self.fail_at:
            raise KeyError("inside the model")
        if self.training:
            self.average = 0.9 * self.average + 0.1 * images.detach().mean((0, 2, 3))
        logits: Tensor = self.body(self.dropout(images))
        return logits


def restless(fail_at: int | None = None) -> Restless:
    torch.manual_seed(0)
    model = Restless(fail_at).train()
    model.body.layers[1].eval()
    model.body.layers[0].weight.requires_grad_(False)
    model.body.layers[4].bias.requires_grad_(False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 0.25)
    return model


def snapshot(model: nn.Module) -> dict[str, object]:
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "grad": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "training": {name: module.training for name, module in model.named_modules()},
        "identity": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),  # noqa: NPY002 - the global state is what must not move
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
    }


def assert_untouched(before: dict[str, object], after: dict[str, object]) -> None:
    for part in before:
        torch.testing.assert_close(after[part], before[part], rtol=0, atol=0, msg=lambda text, p=part: f"{p}: {text}")


@pytest.mark.parametrize("mode", ["eval", "train"])
@every_attack
def test_no_trace(name: str, mode: str):
    model, (images, targets) = restless(), tiny_batch(torch.float32)
    before = snapshot(model)
    build(name)(model, images, targets, mode=mode)
    assert bool(model.forwards) == ROWS[name].asks
    assert_untouched(before, snapshot(model))


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", partly([name for name in ATTACKS if ROWS[name].asks], LOOPS.__contains__))
def test_no_trace_after_an_exception(name: str, mode: str):
    fail_at = 1 if ROWS[name].cost and ROWS[name].cost[0] == 1 else 2
    model, (images, targets) = restless(fail_at), tiny_batch(torch.float32)
    before = snapshot(model)
    with pytest.raises(AttackError, match=r"raised KeyError \(test_trace.py, line \d+\): 'inside the model'") as caught:
        build(name)(model, images, targets, mode=mode)
    assert isinstance(caught.value.__cause__, KeyError)
    assert_untouched(before, snapshot(model))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_no_trace_after_an_exception_in_the_callback(mode: str):
    model, (images, targets) = restless(), tiny_batch(torch.float32)
    before = snapshot(model)

    def stop(step: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        build("PGD")(model, images, targets, mode=mode, on_step=stop)
    assert_untouched(before, snapshot(model))


def test_mode_decides_how_the_model_is_seen():
    images, targets = tiny_batch(torch.float32)
    flags: dict[str, list[bool]] = {}
    for mode in ("eval", "train"):
        model = restless()
        build("BIM")(
            model,
            images,
            targets,
            mode=mode,
            on_step=lambda step, m=model, k=mode: flags.update({k: [module.training for module in m.modules()]}),
        )
    assert not any(flags["eval"])
    assert flags["train"] == [module.training for module in restless().modules()]


@pytest.mark.parametrize("surrounding", [torch.no_grad, torch.inference_mode, nullcontext])
@every_attack
def test_works_without_autograd_around_it(name: str, surrounding: Callable):
    model, (images, targets) = tiny_net(torch.float32), tiny_batch(torch.float32)
    expected = build(name)(model, images, targets)
    with surrounding():
        # Inside inference mode these are inference tensors, which autograd refuses.
        batch = images * 1, targets * 1
        before = snapshot(model)
        actual = build(name)(model, *batch)
        assert_untouched(before, snapshot(model))
    assert torch.equal(actual, expected)
    assert not actual.is_inference()


@pytest.mark.parametrize("name", partly([name for name in ATTACKS if not ROWS[name].layers], LOOPS.__contains__))
def test_plain_function_is_a_model(name: str):
    model, (images, targets) = tiny_net(torch.float32), tiny_batch(torch.float32)
    actual = build(name)(lambda x: model(x), images, targets)
    assert torch.equal(actual, build(name)(model, images, targets))
    assert all(parameter.grad is None for parameter in model.parameters())


@every_attack
def test_images_that_carry_a_graph_are_not_part_of_it(name: str):
    model, (images, targets) = tiny_net(torch.float32), tiny_batch(torch.float32)
    images.requires_grad_()
    images_adv = build(name)(model, images * 1, targets)
    assert not images_adv.requires_grad
    assert images.grad is None


def test_attack_in_training_leaves_the_update_as_it_was():
    """Gradients accumulated before and after an attack add up as if there had been none."""
    images, targets = tiny_batch(torch.float32)

    def gradients(attacked: bool) -> list[Tensor]:
        torch.manual_seed(1)
        model = TinyNet(CLASSES).train()
        for _ in range(2):
            if attacked:
                build("SegPGD")(model, images, targets, mode="train")
            nn.functional.cross_entropy(model(images), targets, ignore_index=255).backward()
        return [parameter.grad for parameter in model.parameters()]

    for with_attack, without in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(with_attack, without)
