"""Models that torch has wrapped, compiled or changed, and attacks on one model in several threads."""

import copy
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from robustseg.attacks import AttackError, MLAttack, NoGradientError, Square, attack_mode
from tests.helpers.nets import CLASSES

from .test_boundary import BATCH, attacked, expected_of, trained
from .test_trace import assert_untouched, snapshot


class Checkpointed(nn.Module):
    """Computes its network's features anew in the backward."""

    def __init__(self, net: nn.Module, use_reentrant: bool):
        super().__init__()
        self.net = net
        self.use_reentrant = use_reentrant

    def forward(self, images: Tensor) -> Tensor:
        for part in self.net:
            images = checkpoint(part, images, use_reentrant=self.use_reentrant)
        return images


class Switching(nn.Module):
    """Sets its own mode in its forward."""

    def __init__(self, net: nn.Module, training: bool):
        super().__init__()
        self.net = net
        self.wanted = training

    def forward(self, images: Tensor) -> Tensor:
        self.train(self.wanted)
        return self.net(images)


class FrozenNorm(nn.Module):
    """Keeps its BatchNorm in eval mode whatever it is told."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.training = False
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def traced(net: nn.Module) -> nn.Module:
    model = torch.jit.trace(copy.deepcopy(net).eval(), BATCH[0])
    return model.train()


def compiled_method(net: nn.Module) -> nn.Module:
    net.compile(backend="eager")
    return net


def exported(net: nn.Module) -> nn.Module:
    return torch.export.export(copy.deepcopy(net).eval(), (BATCH[0],)).module()


def compiled(net: nn.Module, **settings: object) -> nn.Module:
    return torch.compile(net, backend="eager", **settings)


WRAPPERS: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "script": torch.jit.script,
    "trace": traced,
    "freeze": lambda net: torch.jit.freeze(torch.jit.script(copy.deepcopy(net).eval())),
    "freeze in a function": lambda net: (lambda frozen: lambda images: frozen(images))(WRAPPERS["freeze"](net)),
    "DataParallel": nn.DataParallel,
    "checkpoint": lambda net: Checkpointed(net, use_reentrant=False),
    "frozen norm": FrozenNorm,
    "switching to eval": lambda net: Switching(net, False),
    "compile": compiled,
    "compile whole": lambda net: compiled(net, fullgraph=True),
    "compile a function": lambda net: compiled(lambda images: net(images)),
    "compile a part": lambda net: nn.Sequential(compiled(net[0], fullgraph=True), *net[1:]),
    "compile method": compiled_method,
    "compile a hidden one": lambda net: (lambda nets: lambda images: next(nets)(images))(iter([compiled(net)] * 99)),
    "export": exported,
    "deepcopy": copy.deepcopy,
}


MODELESS = ("freeze", "freeze in a function", "compile a function", "compile a hidden one")
"""No modules, or without training flags."""


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrapped_network_is_attacked_as_the_plain_one(kind: str):
    net = trained(dropout=kind != "compile")
    for module in net.modules():
        module.train()
    expected = expected_of(net)
    model = WRAPPERS[kind](net)
    before, outer = snapshot(net), None if kind in MODELESS else snapshot(model)
    torch.testing.assert_close(attacked(model), expected, rtol=0, atol=1e-6)
    assert_untouched(before, snapshot(net))
    if outer is not None:
        assert_untouched(outer, snapshot(model))


@pytest.mark.parametrize("fullgraph", [True, False])
def test_attacks_do_not_compile_anew(fullgraph: bool):
    counter = CompileCounter()
    model = torch.compile(trained().eval(), backend=counter, fullgraph=fullgraph)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*hook")  # of hooks that compiled modules do not know
        for _ in range(3):
            attacked(model)
            assert counter.frame_count == 1


def test_reentrant_checkpoint_is_named_with_its_remedy():
    net = trained()
    before = snapshot(net)
    with pytest.raises(AttackError, match=r"the model's backward raised .*use_reentrant=True.*use_reentrant=False"):
        attacked(Checkpointed(net, use_reentrant=True))
    assert_untouched(before, snapshot(net))
    Square(eps=0.05, steps=2)(Checkpointed(net, use_reentrant=True), *BATCH)
    assert_untouched(before, snapshot(net))


def test_model_that_torch_has_optimised_for_inference_has_no_gradient():
    model = torch.jit.optimize_for_inference(torch.jit.script(trained().eval()))
    with pytest.raises(NoGradientError, match="cannot judge this model"):
        attacked(model)


NORMED = {
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "old spectral_norm": nn.utils.spectral_norm,
    "old weight_norm": nn.utils.weight_norm,
}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("kind", NORMED)
def test_weights_that_are_computed(kind: str, mode: str):
    torch.manual_seed(0)
    net = nn.Sequential(NORMED[kind](nn.Conv2d(3, 6, 3, padding=1)), NORMED[kind](nn.Conv2d(6, CLASSES, 1))).train()
    before = snapshot(net)
    actual = attacked(lambda images: net(images), mode=mode)
    assert torch.equal(actual, attacked(net.train(mode == "train"), mode=mode))
    net.train()
    assert_untouched(before, snapshot(net))


def test_lazy_modules_keep_their_flags():
    net = nn.Sequential(nn.LazyConv2d(6, 3, padding=1), nn.LazyBatchNorm2d(), nn.LazyConv2d(CLASSES, 1)).train()
    net[2].bias.requires_grad = False
    attacked(net)
    assert [parameter.requires_grad for parameter in net.parameters()] == [True] * 5 + [False]
    assert all(module.training for module in net.modules())


def test_model_that_switches_to_train_mode_is_left_as_it_was():
    net = trained().eval()
    before = snapshot(net)
    attacked(Switching(net, True))
    assert_untouched(before, snapshot(net))


def test_wrapper_of_distributed_training_within_a_function_starts_nothing(monkeypatch: pytest.MonkeyPatch):
    """Not one that is the model itself, which is taken off."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        net = trained(dropout=False)
        wrapper = DistributedDataParallel(net)
        wrapper(BATCH[0]).sum().backward()
        expected, before = expected_of(net), snapshot(net)
        with monkeypatch.context() as patch:
            patch.setattr(wrapper, "_pre_forward", lambda *args, **settings: pytest.fail("an attack must not wait"))
            assert torch.equal(attacked(lambda images: wrapper(images)), expected)
        assert_untouched(before, snapshot(net))
        wrapper(BATCH[0]).sum().backward()
        assert "forward" not in vars(wrapper)
    finally:
        dist.destroy_process_group()


def test_train_mode_keeps_batch_statistics_of_hidden_networks():
    net = trained(dropout=False)
    before = snapshot(net)
    actual = attacked(lambda images: net(images), mode="train")
    assert torch.equal(actual, attacked(copy.deepcopy(net), mode="train"))
    assert not torch.equal(actual, expected_of(net))
    assert_untouched(before, snapshot(net))


@pytest.mark.parametrize("at_once", [2, 3])
@pytest.mark.parametrize("order", ["first in, first out", "last in, first out"])
def test_attacks_in_threads_leave_the_model_as_it_was(at_once: int, order: str):
    net = trained()
    before = snapshot(net)
    enter, leave = ([threading.Event() for _ in range(at_once)] for _ in range(2))
    inside, left = ([threading.Event() for _ in range(at_once)] for _ in range(2))

    def work(place: int) -> None:
        enter[place].wait(20)
        with attack_mode(net) as model:
            model(BATCH[0])
            torch.rand(3)
            inside[place].set()
            leave[place].wait(20)
            assert not any(module.training for module in net.modules())
            assert not any(parameter.requires_grad for parameter in net.parameters())
            model(BATCH[0])
        left[place].set()

    threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(at_once)]
    for thread in threads:
        thread.start()
    for place in range(at_once):
        enter[place].set()
        assert inside[place].wait(20)
    places = range(at_once) if order.startswith("first") else reversed(range(at_once))
    for place in places:
        leave[place].set()
        assert left[place].wait(20)
    assert_untouched(before, snapshot(net))


@pytest.mark.parametrize("first", ["eval", "train"])
def test_attacks_in_two_modes_at_once_are_refused(first: str):
    """The later one would have its batch statistics taken away, or take them from the first one."""
    net = trained()
    before, errors = snapshot(net), list[object]()
    second = {"eval": "train", "train": "eval"}[first]

    def work(model: Callable[[Tensor], Tensor]) -> None:
        try:
            attacked(model, mode=second)
        except AttackError as error:
            errors.append(error)

    hidden = (lambda nets: lambda images: next(nets)(images))(iter([net] * 99))
    with attack_mode(net, first) as model:
        during = snapshot(net)
        for other in (net, hidden, copy.deepcopy(net), copy.deepcopy(net).eval()):
            thread = threading.Thread(target=work, args=(other,))
            thread.start()
            thread.join()
            assert_untouched(during, snapshot(net))
        model(BATCH[0])
    assert len(errors) == 2
    assert all(f"attack_mode {first}, and this attack's is {second}" in str(error) for error in errors)
    assert_untouched(before, snapshot(net))


def test_modules_in_threads_of_the_model():
    """A pool whose work the model waits for; the search finds the network, the look at the forward does not."""
    net = trained()
    before, expected = snapshot(net), expected_of(net)
    with ThreadPoolExecutor(2) as pool:
        assert torch.equal(attacked(lambda images: pool.submit(net, images).result()), expected)
    assert_untouched(before, snapshot(net))


def test_layers_inside_of_a_checkpointed_part_are_read_as_in_the_plain_network():
    plain = trained(dropout=False)
    attack = MLAttack(layers=["0.layers.1"], weights=[1], steps=3)
    assert torch.equal(attack(Checkpointed(plain, use_reentrant=False), *BATCH), attack(plain, *BATCH))


def test_many_attacks_in_threads():
    net = trained()
    before, expected = snapshot(net), expected_of(net)
    results: list[Tensor] = []

    def work() -> None:
        for _ in range(4):
            results.append(attacked(lambda images: net(images)))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 12
    assert all(torch.equal(result, expected) for result in results)
    assert_untouched(before, snapshot(net))


def test_attack_within_an_attack():
    """The inner one ends as it found the outer one, whose mode is another."""
    net, seen = trained(dropout=False), []
    before = snapshot(net)
    with attack_mode(net, "train") as outer:
        during = snapshot(net)
        with attack_mode(outer) as inner:
            inner(BATCH[0])
            seen += [module.training for module in net.modules()]
        assert_untouched(during, snapshot(net))
    assert not any(seen)
    assert_untouched(before, snapshot(net))
