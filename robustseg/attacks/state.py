"""State of the modules that an attack runs: put into the attack's mode, and left as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from robustseg.attacks.buffers import Comparison, Slots, contents_of
from robustseg.attacks.errors import AttackError
from robustseg.attacks.generators import global_generators
from robustseg.attacks.scaling import in_float16

AttackMode = Literal["eval", "train"]

_LOCK = threading.RLock()
_HOLDS: list[Hold] = []
"""The attacks that run now, in all threads."""


class Hold:
    """The hold of one attack on the modules that it runs, and on torch's global random state on all devices.

    A module is taken before its forward: its parameters are frozen and, with ``"eval"``, its training flag is cleared.
    A DistributedDataParallel is passed by, so that it neither arms its reducer nor starts collectives. On release each
    training flag, each ``requires_grad``, each buffer and the random state are as they were found.
    Attacks of several threads share what they found: the first one finds it, the last one restores it.

    Args:
        mode: Mode of the modules during the attack.
    """

    def __init__(self, mode: AttackMode):
        self._mode = mode
        self._thread = threading.get_ident()
        self._modules: dict[int, nn.Module] = {}
        self._hook: RemovableHandle | None = None
        self._watches = False
        self._comparison: Comparison | None = None
        self._known: dict[torch.device, bool] = {}
        self.float16: bool | None = None
        """Some module works in float16; None before the first forward."""
        # By kind and the owner's id: the owner and its state.
        self._saved: dict[str, dict[int, tuple[Any, Any]]] = {kind: {} for kind in _RESTORE}
        with _LOCK:
            _HOLDS.append(self)
            self._keep("generator", ((generator, generator.get_state()) for generator in global_generators()))

    def take(self, modules: Iterable[nn.Module]) -> None:
        """Remember the state of modules, and put them into the mode.

        Raises:
            AttackError: ``"train"`` with synchronised BatchNorm on several ranks, or another thread attacks one of them
                in the other mode.
        """
        with _LOCK, torch.no_grad():
            new = [module for module in modules if id(module) not in self._modules]
            if self._mode == "train":
                _refuse_synchronised_batchnorm(new)
            self._refuse_two_modes(new)
            self._modules.update((id(module), module) for module in new)
            slots = [Slots.of(module) for module in new]
            buffers = [buffer for each in slots for _, buffer in each.buffers if buffer is not None]
            tensors = [*buffers, *(p for module in new for _, p in module._parameters.items() if p is not None)]
            modal = [module for module in new if hasattr(module, "training")]  # one of torch.jit.freeze has no mode
            self._keep("slots", zip(new, slots, strict=True))
            self._keep("contents", ((content.tensor, content) for content in contents_of(buffers)))
            self._keep("requires_grad", ((tensor, tensor.requires_grad) for tensor in tensors))
            self._keep("training", ((module, module.training) for module in modal))
            wrappers = [module for module in new if isinstance(module, DistributedDataParallel)]
            self._keep("forward", ((wrapper, vars(wrapper).get("forward")) for wrapper in wrappers))
            for tensor in tensors:
                if tensor.requires_grad and tensor.is_leaf:
                    tensor.requires_grad = False
            for wrapper in wrappers:
                _set_forward(wrapper, wrapper.module.__call__)
            if self._mode == "eval":
                for module in modal:
                    _set_training(module, False)

    def override(self, forwards: Mapping[nn.Module, Callable[..., Any]]) -> None:
        """Give modules other forwards until the release; they run in every thread."""
        with _LOCK:
            self._keep("forward", ((module, vars(module).get("forward")) for module in forwards))
            for module, forward in forwards.items():
                _set_forward(module, forward)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Take the modules that this thread runs within the block, each before its forward."""
        if self._hook is None:  # it stays until the release, as a hook for each forward would cost as much as its looks
            with _LOCK:
                self._hook = register_module_forward_pre_hook(self._meet)
        before, self._watches = self._watches, True
        try:
            yield
        finally:
            self._watches = before
            self.float16 = bool(self.float16)

    def _meet(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # Compiled code keeps no hooks: a compiler sees nothing of this one but the first condition.
        if torch.compiler.is_dynamo_compiling() or (self.float16 is not None and id(module) in self._modules):
            return
        if self._watches and threading.get_ident() == self._thread:
            if self.float16 is None and any(isinstance(each, Tensor) and in_float16(each) for each in inputs):
                self.float16 = True
            if id(module) not in self._modules:
                self.take(module.modules())

    def changed(self, device: torch.device) -> Tensor:
        """Return one flag on the device that some buffer there has changed; does not wait for it."""
        nothing = torch.zeros((), dtype=torch.bool, device=device)
        with _LOCK, torch.no_grad(), suppress(Exception):  # of a buffer without memory, at which the release looks
            self._comparison = Comparison([content for _, content in self._saved["contents"].values()])
        return nothing if self._comparison is None else self._comparison.changed.get(device, nothing)

    def settle(self, device: torch.device, changed: bool) -> None:
        """Take the value of :meth:`changed` that was read, so that the release need not wait for it again.

        The model must not run between these two and the release.
        """
        if self._comparison is not None:
            self._known[device] = changed

    def release(self) -> list[BaseException]:
        """Restore everything that no other thread's attack holds; return the errors of what could not be restored."""
        failures: list[BaseException] = []
        with _LOCK, torch.no_grad():
            _HOLDS.remove(self)
            if self._hook is not None:
                self._hook.remove()
            for kind, restore in _RESTORE.items():
                held = set[int]().union(*(other._saved[kind] for other in self._others()))
                pairs = [pair for key, pair in self._saved[kind].items() if key not in held]
                if kind == "contents":
                    contents, pairs = [pair[1] for pair in pairs], [(tensor, each.restore) for tensor, each in pairs]
                    with suppress(Exception):  # otherwise each is looked at by itself
                        compared = (self._known and self._comparison) or Comparison(contents)
                        pairs = [pair for pair in compared.to_restore(self._known) if id(pair[0]) not in held]
                for owner, state in pairs:
                    try:
                        restore(owner, state)
                    except BaseException as error:  # the others shall be restored all the same
                        failures.append(error)
        return failures

    def _keep(self, kind: str, found: Iterable[tuple[Any, Any]]) -> None:
        new = {id(pair[0]): pair for pair in found}
        for other in self._others():
            new.update((key, other._saved[kind][key]) for key in new.keys() & other._saved[kind].keys())
        self._saved[kind] = new | self._saved[kind]

    def _refuse_two_modes(self, modules: Sequence[nn.Module]) -> None:
        """Refuse modules found in train mode that another thread's attack holds in the other mode."""
        for other in self._others():
            flags = other._saved["training"]
            if other._mode != self._mode and any(flags.get(id(module), (None, False))[1] for module in modules):
                raise AttackError(
                    f"another thread attacks this model in attack_mode {other._mode}, and this attack's is "
                    f"{self._mode}: attack a copy, copy.deepcopy(model), or one after the other."
                )

    def _others(self) -> list[Hold]:
        """Return the attacks of other threads; those of this one end in the reverse order of their beginning."""
        return [hold for hold in _HOLDS if hold._thread != self._thread]


def _set_training(module: nn.Module, flag: bool) -> None:
    if module.training is not flag:
        module.training = flag


def _set_requires_grad(tensor: Tensor, flag: bool) -> None:
    if tensor.requires_grad is flag:
        return
    # As an attribute, since lazy parameters have no method for it; torch sets that of inference tensors nowhere else.
    with torch.inference_mode() if tensor.is_inference() else nullcontext():
        tensor.requires_grad = flag


def _set_forward(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """Give an object a forward of its own, or with None that of its class again."""
    vars(module).pop("forward", None)
    if forward is not None:
        vars(module)["forward"] = forward


_RESTORE: dict[str, Callable[[Any, Any], None]] = {
    "slots": lambda module, slots: slots.restore(module),
    "contents": lambda tensor, restore: restore(tensor),
    "requires_grad": _set_requires_grad,
    "training": _set_training,
    "forward": _set_forward,
    "generator": lambda generator, state: generator.set_state(state),
}
"""Restorations by kind of state, in this order."""


def _refuse_synchronised_batchnorm(modules: Iterable[nn.Module]) -> None:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_world_size() > 1:
        for module in modules:
            if isinstance(module, nn.SyncBatchNorm) and module.training:
                raise AttackError(
                    f"attack_mode train would run the synchronised BatchNorm {module} inside the attack, which can "
                    "deadlock: use attack_mode eval, or BatchNorm that is not synchronised."
                )
