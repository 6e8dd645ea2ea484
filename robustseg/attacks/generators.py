"""Torch's global random generators, those of all devices in use."""

from __future__ import annotations

import functools
from typing import Any, Protocol

import torch
from torch import Tensor


class GlobalGenerator(Protocol):
    """A random generator that code draws from if it names none, such as dropout."""

    def get_state(self) -> Tensor:
        """Return the state."""

    def set_state(self, new_state: Tensor) -> Any:
        """Return to a state."""

    def manual_seed(self, seed: int) -> Any:
        """Begin anew from a seed."""


def global_generators() -> list[GlobalGenerator]:
    """Return the generators of the CPU and of each device of each accelerator that is in use, always the same objects.

    An accelerator that nothing has initialised is left alone, since asking for its generators would occupy its memory.
    """
    found: list[GlobalGenerator] = [torch.default_generator]
    accelerator = torch.accelerator.current_accelerator()
    for kind in dict.fromkeys(("cuda", "xpu", "mps", *([] if accelerator is None else [accelerator.type]))):
        module = getattr(torch, kind, None)
        # Apple's module says nothing: asking for its generator costs nothing.
        if module is not None and getattr(module, "is_initialized", lambda: True)():
            count = module.device_count()
            known = getattr(module, "default_generators", ())
            found += known if len(known) == count else (_DeviceGenerator.of(kind, index) for index in range(count))
    return found


class _DeviceGenerator:
    """The generator of one device of an accelerator that offers functions in place of it, as Apple's GPUs do."""

    def __init__(self, kind: str, index: int):
        self._kind, self._index = kind, index

    @property
    def _module(self) -> Any:
        return getattr(torch, self._kind)

    @staticmethod
    @functools.cache
    def of(kind: str, index: int) -> _DeviceGenerator:
        """Return the one object of this device."""
        return _DeviceGenerator(kind, index)

    def get_state(self) -> Tensor:
        state: Tensor = self._module.get_rng_state(self._index)
        return state

    def set_state(self, new_state: Tensor) -> None:
        self._module.set_rng_state(new_state, self._index)

    def manual_seed(self, seed: int) -> None:
        getattr(self._module, "manual_seed_all", self._module.manual_seed)(seed)
