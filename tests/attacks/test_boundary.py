"""The boundary to other people's models: whatever the model is, its eval-mode result, and no trace on it."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import PGD, AttackError, Square
from tests.helpers.nets import CLASSES, TinyNet, tiny_batch

from . import hidden
from .table import build
from .test_trace import assert_untouched, snapshot

BATCH = tiny_batch(torch.float32)
ATTACK = PGD(eps=0.05, step_size=0.02, steps=3)


def trained(seed: int = 0, dropout: bool = True) -> nn.Module:
    """A network in train mode, with BatchNorm and dropout, one part frozen, gradients of an earlier backward."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        TinyNet(), nn.Dropout(0.4) if dropout else nn.Identity(), nn.Conv2d(CLASSES, CLASSES, 1)
    ).train()
    for _ in range(3):
        net(torch.rand(4, 3, 7, 6))
    net(torch.rand(4, 3, 7, 6)).sum().backward()
    net[2].weight.requires_grad_(False)
    net[0].layers[1].eval()
    return net


def attacked(model: Callable[[Tensor], Tensor], **settings: object) -> Tensor:
    return ATTACK(model, *BATCH, **settings)


def expected_of(net: nn.Module) -> Tensor:
    return attacked(copy.deepcopy(net).eval())


@pytest.mark.parametrize("kind", hidden.HIDDEN)
def test_hidden_network_is_attacked_in_eval_mode_and_left_as_it_was(kind: str):
    net = hidden.Own(trained()).train()
    net.inner[0].layers[1].eval()
    hidden.in_global(net)
    model, expected, before = hidden.HIDDEN[kind](net), expected_of(net), snapshot(net)
    assert torch.equal(attacked(model), expected)
    assert_untouched(before, snapshot(net))
    assert torch.equal(attacked(model), expected)


def test_network_of_a_later_forward_is_attacked_in_eval_mode():
    net = trained()
    model, before = hidden.LaterBranch(net), snapshot(net)
    seen: list[bool] = []
    net[0].layers[4].register_forward_pre_hook(lambda module, _: seen.append(module.training))
    before = snapshot(net)
    attacked(model)
    assert seen == [False, False]
    assert_untouched(before, snapshot(net))
    assert model.first[1].num_batches_tracked == 0


def test_networks_beside_the_model_are_left_alone():
    """The hook sees every module of the process: only those that run in the model's forward count."""
    net, other = trained(), trained(1)
    seen: list[bool] = []

    def watch(step: object) -> None:
        seen.append(other.training)
        other(BATCH[0])
        seen.append(other.training)

    attacked(hidden.Holder(net), on_step=watch)
    assert all(seen)


class Changing(nn.Module):
    """Changes its buffers in every forward, in eval mode as well."""

    def __init__(self, change: Callable[[nn.Module, Tensor], None]):
        super().__init__()
        self.body = TinyNet()
        self.change = change
        self.register_buffer("average", torch.zeros(3))
        self.register_buffer("empty", None)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        self.change(self, images.detach().mean((0, 2, 3)))
        return self.body(images)


def _delete(model: nn.Module, mean: Tensor) -> None:
    if "count" in model._buffers:
        del model.count
    model.count = 3


def _grow(model: nn.Module, mean: Tensor) -> None:
    model.average.resize_(5)


def _cast(model: nn.Module, mean: Tensor) -> None:
    model.average.data.add_(mean)
    model._apply(lambda tensor: tensor.half() if tensor is model.average else tensor)


CHANGES: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "in place": lambda model, mean: model.average.lerp_(mean, 0.5),
    "assignment": lambda model, mean: setattr(model, "average", model.average + mean),
    "through data": lambda model, mean: model.average.data.add_(mean),
    "other data": lambda model, mean: setattr(model.average, "data", mean),
    "data of another size": lambda model, mean: setattr(model.average, "data", mean[:2].clone()),
    "data of another dtype": lambda model, mean: setattr(model.average, "data", mean.half()),
    "cast": _cast,
    "other size in place": _grow,
    "count": lambda model, mean: model.count.add_(1),
    "None": lambda model, mean: setattr(model, "average", None),
    "from None": lambda model, mean: setattr(model, "empty", mean),
    "new": lambda model, mean: model.register_buffer("later", mean, persistent=False),
    "plain attribute": _delete,
    "its flag": lambda model, mean: model.average.requires_grad_(),
    "a parameter's flag": lambda model, mean: model.body.layers[0].weight.requires_grad_(),
    "mode": lambda model, mean: model.train(),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", CHANGES)
def test_state_that_the_model_changes_is_restored(kind: str, training: bool):
    torch.manual_seed(0)
    model = Changing(CHANGES[kind]).train(training)
    buffers = {name: model._buffers[name] for name in ("average", "empty", "count")}
    before = snapshot(model)
    attacked(model)
    assert_untouched(before, snapshot(model))
    assert list(model._buffers) == list(buffers)
    assert all(model._buffers[name] is buffers[name] for name in buffers)
    assert model._non_persistent_buffers_set == {"count"}
    assert not model.count.any()
    assert not any(buffer.requires_grad for buffer in model.buffers())


def test_buffers_that_did_not_change_keep_their_version():
    """A graph from before the attack may need them."""
    net = trained(dropout=False)
    loss = net(BATCH[0]).sum()
    attacked(net)
    loss.backward()


def test_buffers_of_every_kind_of_memory():
    class Odd(Changing):
        def __init__(self) -> None:
            super().__init__(lambda model, mean: None)
            self.register_buffer("sparse", torch.eye(3).to_sparse())
            self.register_buffer("conjugate", torch.ones(2, dtype=torch.complex64).conj())
            self.register_buffer("expanded", torch.ones(1).expand(4))
            self.register_buffer("narrow", torch.ones(3, dtype=torch.float8_e4m3fn))
            self.register_buffer("turned", torch.rand(3, 4).t())
            self.register_buffer("quantised", torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.quint8))
            self.register_buffer("nowhere", torch.ones(3, device="meta"))

        def forward(self, images: Tensor) -> Tensor:
            self.sparse.mul_(2)
            self.conjugate.mul_(2)
            self.turned.mul_(2)
            self.narrow.data.copy_(torch.zeros(3))
            return super().forward(images)

    model = Odd()
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if not buffer.is_meta}
    attacked(model)
    for name, buffer in before.items():
        now = model.get_buffer(name)
        now, then = (each.dequantize() if each.is_quantized else each.to_dense() for each in (now, buffer))
        assert torch.equal(now.cfloat(), then.cfloat()), name


INFERENCE = r"Inference tensor.*Remedy: .*copy.deepcopy\(model\)"


@pytest.mark.parametrize("part", ["all", "a parameter", "a buffer"])
def test_tensors_made_under_inference_mode(part: str):
    net = trained(dropout=False)
    with torch.inference_mode():
        if part == "all":
            net = copy.deepcopy(net)
        elif part == "a parameter":
            net[0].layers[0].weight = nn.Parameter(net[0].layers[0].weight.clone())
        else:
            net[0].layers[1].running_mean = net[0].layers[1].running_mean.clone()
    before = snapshot(net)
    with pytest.raises(AttackError, match=INFERENCE):
        attacked(net)
    assert_untouched(before, snapshot(net))
    # The remedy, and an attack that needs no gradient.
    assert torch.equal(attacked(copy.deepcopy(net)), expected_of(net))
    Square(eps=0.05, steps=2)(net, *BATCH)
    assert_untouched(before, snapshot(net))


class Stubborn(nn.Module):
    """Refuses to have its training flag set again."""

    def __init__(self, error: type[BaseException]):
        super().__init__()
        self.error = error

    def __setattr__(self, name: str, value: object) -> None:
        if name == "training" and value and "error" in vars(self):
            raise self.error("stubborn")
        super().__setattr__(name, value)

    def forward(self, images: Tensor) -> Tensor:
        return images


def test_mode_that_cannot_be_set_is_an_attack_error():
    class Deaf(Stubborn):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value or name == "training")

    net = trained()
    before = snapshot(net)
    with pytest.raises(AttackError, match=r"raised ValueError \(test_boundary.py, line \d+\): stubborn"):
        attacked(nn.Sequential(net, Deaf(ValueError)))
    assert_untouched(before, snapshot(net))


def test_one_failure_to_restore_prevents_nothing_else():
    net = trained()
    model = nn.Sequential(Stubborn(ValueError), net)
    before = snapshot(net)
    with pytest.raises(AttackError, match=r"could not be restored: stubborn.*load the model again"):
        attacked(model)
    assert_untouched(before, snapshot(net))
    assert model.training
    model = nn.Sequential(Stubborn(KeyboardInterrupt), net)
    with pytest.raises(KeyboardInterrupt):
        attacked(model)
    assert_untouched(before, snapshot(net))
    # The model's own error comes first.
    with pytest.raises(AttackError, match="raised IndexError"):
        attacked(nn.Sequential(Stubborn(ValueError), net, Raising(IndexError("x"))))
    assert_untouched(before, snapshot(net))


class Raising(nn.Module):
    """Raises an error in one of its forwards."""

    def __init__(self, error: BaseException, at: int = 1):
        super().__init__()
        self.error = error
        self.left = at

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if not self.left:
            raise self.error
        return x


class FailingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        raise IndexError("in the backward")


class Unwritable(Exception):
    def __str__(self) -> str:
        raise ValueError("unwritable")


def overwritten(x: Tensor) -> Tensor:
    y = x.exp()
    out = y * y
    y.add_(1)
    return out


def view_changed(x: Tensor) -> Tensor:
    first, *_ = x.unbind(1)
    first.mul_(2)
    return x


FAULTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "shapes": (
        lambda x: x @ torch.ones(99, 99),
        r"the model raised RuntimeError \(test_boundary.py, line \d+\): .*by its",
    ),
    "types": (nn.Conv2d(3, CLASSES, 1).double(), r"the model raised RuntimeError.*Remedy: call the model"),
    "index": (lambda x: [x][1], r"the model raised IndexError \(test_boundary.py, line \d+\)"),
    "assertion": (Raising(AssertionError(), at=3), r"raised AssertionError \(test_boundary.py, line \d+\): no message"),
    "fifth forward": (Raising(ValueError("the fifth"), at=3), "raised ValueError .*the fifth"),
    "end of an iterator": (
        lambda x: next(iter(())),
        r"raised StopIteration \(test_boundary.py, line \d+\): no",
    ),
    "unwritable": (Raising(Unwritable(), at=3), r"raised Unwritable \(test_boundary.py, line \d+\): no message"),
    "overwritten": (overwritten, r"the model's backward raised RuntimeError: .*not in place"),
    "view": (view_changed, r"the model raised RuntimeError.*not in place"),
    "own backward": (FailingBackward.apply, r"the model's backward raised IndexError .*in the backward"),
}


@pytest.mark.parametrize("attack", ["PGD", "CW", "DeepFool", "DAG", "APGD shrinking"])
@pytest.mark.parametrize("kind", FAULTS)
def test_errors_inside_the_model(kind: str, attack: str):
    net = trained(dropout=False)
    fault, message = FAULTS[kind]
    fault = copy.deepcopy(fault) if isinstance(fault, nn.Module) else fault
    before = snapshot(net)
    with pytest.raises(AttackError, match=message) as caught:
        build(attack)(lambda x: net(x + fault(x)[:, :3] * 0 if kind != "shapes" else fault(x)), *BATCH)
    assert type(caught.value) is AttackError
    assert caught.value.__cause__ is not None
    assert not isinstance(caught.value.__cause__, AttackError)
    assert_untouched(before, snapshot(net))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        torch.distributed.DistNetworkError("connection closed"),
        RuntimeError("NCCL communicator was aborted"),
        KeyboardInterrupt(),
        SystemExit(3),
        AttackError("of its own"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_others_handle_stay_as_they_are(error: BaseException):
    net = trained()
    before = snapshot(net)
    with pytest.raises(type(error)) as caught:
        attacked(nn.Sequential(net, Raising(error, at=2)))
    assert caught.value is error
    assert_untouched(before, snapshot(net))
