"""Models that hide a network from a look at the object: of each kind, where the network is."""

import functools
import itertools
import types
import weakref
from collections import UserDict, deque
from collections.abc import Callable, Iterator
from unittest.mock import Mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NET: nn.Module
"""The network that a function finds by its global name."""


class Own(nn.Module):
    """A network that looks at its own mode, so that it matters although its forward is called directly."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        self.register_buffer("average", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.inner(images)
        if self.training:
            self.average.lerp_(logits.detach().mean(), 0.5)
        return F.dropout(logits, 0.3, self.training)


class Holder:
    """A plain object that is called."""

    def __init__(self, net: object):
        self.net = net

    def __call__(self, images: Tensor) -> Tensor:
        return self.net(images)


class Slotted:
    __slots__ = ("net",)

    def __init__(self, net: nn.Module):
        self.net = net

    def __call__(self, images: Tensor) -> Tensor:
        return self.net.forward(images)


class Listing:
    def __init__(self, *nets: object):
        self.nets = nets

    def __call__(self, images: Tensor) -> Tensor:
        return self.nets[0][0].forward(images)


class Named:
    """Of its networks it runs the one called net."""

    def __init__(self, nets: dict):
        self.nets = nets

    def __call__(self, images: Tensor) -> Tensor:
        return self.nets["a"]["net"](images)


class Registry:
    nets: dict = {}  # noqa: RUF012

    @classmethod
    def run(cls, images: Tensor) -> Tensor:
        return cls.nets["net"](images)

    @staticmethod
    def run_forward(images: Tensor) -> Tensor:
        return Registry.nets["net"].forward(images)


class Computed:
    """The network is a property, from a function that no search calls."""

    def __init__(self, make: Callable[[], nn.Module]):
        self._make = make

    @property
    def net(self) -> nn.Module:
        return self._make()

    def __call__(self, images: Tensor) -> Tensor:
        return self.net(images)


class Lazy:
    """Loads its network in the first call."""

    def __init__(self, net: nn.Module):
        self._stored = iter([net])
        self.net: nn.Module | None = None

    def __call__(self, images: Tensor) -> Tensor:
        self.net = self.net or next(self._stored)
        return self.net(images)


class Delegating:
    """Looks attributes up elsewhere."""

    def __init__(self, net: nn.Module):
        self.__dict__["_elsewhere"] = types.SimpleNamespace(net=net)

    def __getattr__(self, name: str) -> object:
        return getattr(self._elsewhere, name)

    def __call__(self, images: Tensor) -> Tensor:
        return self.net(images)


class Refusing:
    """Does not let itself be looked at."""

    def __init__(self, net: nn.Module):
        object.__setattr__(self, "net", net)

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError(name)

    def __call__(self, images: Tensor) -> Tensor:
        return object.__getattribute__(self, "net")(images)


class Outer(nn.Module):
    """A module that does not know of the network as a submodule."""

    def __init__(self, parts: object, call: Callable[[object, Tensor], Tensor]):
        super().__init__()
        self.parts = parts
        self.call = call

    def forward(self, images: Tensor) -> Tensor:
        return self.call(self.parts, images)


class LaterBranch(nn.Module):
    """Runs the network from its second forward on; a stranger to every search."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.later = itertools.chain([self.first], itertools.repeat(net))

    def forward(self, images: Tensor) -> Tensor:
        return next(self.later)(images)


def of_global(images: Tensor) -> Tensor:
    return NET.forward(images)


def of_a_function(images: Tensor) -> Tensor:
    return of_global(images)


def with_default(net: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor, *, inner: nn.Module = net) -> Tensor:
        return inner.forward(images)

    return run


def decorated(net: nn.Module) -> Callable[[Tensor], Tensor]:
    @functools.wraps(net.forward)
    def run(*args: Tensor) -> Tensor:
        return net.forward(*args)

    return functools.lru_cache(maxsize=None)(lambda: run)()


def produced(net: nn.Module) -> Iterator[nn.Module]:
    while True:
        yield net


def registered(net: nn.Module) -> type[Registry]:
    return type("Own", (Registry,), {"nets": {"net": net}})


def of_class(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """A network that is the attribute of a class."""

    class Owner:
        inner = net

        @classmethod
        def run(cls, images: Tensor) -> Tensor:
            return cls.inner.forward(images)

    return Owner.run


def of_namespace(net: nn.Module) -> Callable[[Tensor], Tensor]:
    held = types.SimpleNamespace(nets=UserDict(net=net))
    return lambda images: held.nets["net"].forward(images)


def of_registry(net: nn.Module) -> Callable[[Tensor], Tensor]:
    Registry.nets = {"net": net}
    return Registry.run_forward


def in_global(net: nn.Module) -> None:
    global NET
    NET = net


def by_functional_call(net: nn.Module) -> Callable[[Tensor], Tensor]:
    weights = {name: value.detach() for name, value in net.named_parameters()}
    return lambda images: torch.func.functional_call(net, weights, (images,))


def proxy(net: nn.Module) -> object:
    return weakref.proxy(net)


HIDDEN: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "object": Holder,
    "slots": Slotted,
    "list in a tuple": lambda net: Listing([net]),
    "deque": lambda net: Listing(deque([net])),
    "dict in a dict": lambda net: Named({"a": {"net": net}}),
    "object in an object": lambda net: Holder(Holder(Holder(net))),
    "object's forward": lambda net: Holder(Holder(net.forward)),
    "closure": lambda net: lambda images: net.forward(images),
    "closure over an object": lambda net: (lambda held: lambda images: held(images))(Slotted(net)),
    "bound method of an object": lambda net: Holder(net).__call__,
    "bound method": lambda net: net.forward,
    "partial": lambda net: functools.partial(lambda model, images: model.forward(images), net),
    "partial of a bound method": lambda net: functools.partial(Slotted(net).__call__),
    "global name": lambda net: of_global,
    "function of a function": lambda net: of_a_function,
    "default": with_default,
    "decorator": decorated,
    "property": lambda net: Computed(lambda: net),
    "generator": lambda net: (lambda nets: lambda images: next(nets)(images))(produced(net)),
    "weak reference": lambda net: (lambda ref: lambda images: ref().forward(images))(weakref.ref(net)),
    "proxy": lambda net: (lambda seen: lambda images: seen.forward(images))(proxy(net)),
    "class": lambda net: registered(net).run,
    "static method": of_registry,
    "class attribute": of_class,
    "namespace": of_namespace,
    "generator's forward": lambda net: (lambda nets: lambda images: next(nets).forward(images))(produced(net)),
    "first call": Lazy,
    "getattr": Delegating,
    "refusing": lambda net: (lambda held: lambda images: held(images))(Refusing(net)),
    "mock": lambda net: Mock(side_effect=net),
    "functional_call": by_functional_call,
    "list in a module": lambda net: Outer([net], lambda nets, images: nets[0](images)),
    "object in a module": lambda net: Outer(Slotted(net), lambda held, images: held(images)),
    "generator in a module": lambda net: Outer(produced(net), lambda nets, images: next(nets)(images)),
    "iterator of a module's forward": lambda net: Outer(itertools.repeat(net), lambda nets, images: next(nets)(images)),
}
"""Each takes a network and returns the model around it, which keeps no other reference to it than its kind's."""
