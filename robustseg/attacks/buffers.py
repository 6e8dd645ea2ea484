"""Buffers of modules: under which names they stand, what they hold, and the way back to that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robustseg.devices import read

Restore = Callable[[Tensor], None]
"""Function that gives a tensor back what it held."""


class Slots(NamedTuple):
    """The buffers of a module by their names, and the names of those that its state dict leaves out."""

    buffers: tuple[tuple[str, Tensor | None], ...]
    non_persistent: frozenset[str]

    @classmethod
    def of(cls, module: nn.Module) -> Slots:
        """Look at a module."""
        if not module._buffers:  # as most
            return _NO_SLOTS
        return cls(tuple(module._buffers.items()), frozenset(vars(module).get("_non_persistent_buffers_set", ())))

    def restore(self, module: nn.Module) -> None:
        """Put the same tensors back under their names, in the same order."""
        if not self.buffers and not module._buffers:
            return
        now = Slots.of(module)
        pairs = zip(self.buffers, now.buffers, strict=False)
        same = all(name == other and buffer is tensor for (name, buffer), (other, tensor) in pairs)
        if same and len(self.buffers) == len(now.buffers) and self.non_persistent == now.non_persistent:
            return
        if not isinstance(vars(module).get("_buffers"), dict):  # a module of torch.jit
            for name, buffer in self.buffers:
                setattr(module, name, buffer)
            return
        for name, _ in self.buffers:
            vars(module).pop(name, None)  # a plain attribute that took the place of a buffer
        module._buffers.clear()
        module._buffers.update(self.buffers)
        module._non_persistent_buffers_set = set(self.non_persistent)


_NO_SLOTS = Slots((), frozenset())


class Contents(NamedTuple):
    """The values of one tensor at some time."""

    tensor: Tensor
    """The tensor itself."""
    shape: torch.Size
    dtype: torch.dtype
    copy: Tensor
    """Its values in one row of bytes, or a clone if it has no plain memory (sparse, quantised, a class of its own)."""
    version: int | None
    """Count of its changes, where bytes cannot be compared."""

    def restore(self, tensor: Tensor) -> None:
        """Give the tensor these values, unless it has them."""
        if self.version is not None:
            if tensor._version != self.version:
                tensor.copy_(self.copy)
        elif not self.has_form_of(tensor) or not torch.equal(_bytes(tensor), self.copy):
            self.put_back(tensor)

    def put_back(self, tensor: Tensor) -> None:
        """Give a tensor of plain memory these values; its memory and its version stay the same if possible."""
        # A clone, since wider numbers cannot start at any byte.
        values = self.copy.clone().view(self.dtype).view(self.shape)
        if tensor.dtype == values.dtype:
            with suppress(RuntimeError):  # of another size now, or several elements in one place
                # Through data, as a graph that was built before may need the tensor.
                tensor.data.copy_(values)
                return
        tensor.data = values

    def has_form_of(self, tensor: Tensor) -> bool:
        """Return whether the tensor still has the shape and dtype, and plain memory."""
        return (tensor.shape, tensor.dtype) == (self.shape, self.dtype) and _is_plain(tensor)


def contents_of(tensors: Iterable[Tensor]) -> Iterator[Contents]:
    """Copy the values of tensors, with one copy for each device; lazy and meta tensors have none."""
    together: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if _is_plain(tensor):
            together.setdefault(tensor.device, []).append(tensor)
        elif not is_lazy(tensor) and not tensor.is_meta:
            with suppress(Exception):  # of a class whose tensors cannot be copied
                yield Contents(tensor, tensor.shape, tensor.dtype, tensor.detach().clone(), tensor._version)
    for group in together.values():
        rows = [_bytes(tensor) for tensor in group]
        for tensor, copy in zip(group, torch.split(torch.cat(rows), [len(row) for row in rows]), strict=True):
            yield Contents(tensor, tensor.shape, tensor.dtype, copy, None)


class Comparison:
    """A comparison of tensors with what they held: those on one device by one value on it, without a wait.

    Args:
        contents: What they held.
    """

    def __init__(self, contents: Sequence[Contents]):
        self._groups: dict[torch.device, list[Contents]] = {}
        self._apart: list[Contents] = []
        """Contents without plain memory, or of another form than the tensor has now."""
        for content in contents:
            if content.version is None and content.has_form_of(content.tensor):
                self._groups.setdefault(content.tensor.device, []).append(content)
            else:
                self._apart.append(content)
        self.changed = {device: _differ(group).any() for device, group in self._groups.items()}
        """One flag on each device: some of its tensors changed."""

    def to_restore(self, known: Mapping[torch.device, bool]) -> Iterator[tuple[Tensor, Restore]]:
        """Return the tensors that differ, or may, with the way back; waits once for each device of which some do.

        Args:
            known: Values of :attr:`changed` that were read already; the others are read here.
        """
        yield from ((content.tensor, content.restore) for content in self._apart)
        for device, flag in self.changed.items():
            if known[device] if device in known else bool(flag):
                group = self._groups[device]
                rows = torch.split(_differ(group), [len(content.copy) for content in group])
                (flags,) = read(torch.stack([row.any() for row in rows]))
                for content, differs in zip(group, flags.tolist(), strict=True):
                    if differs:
                        yield content.tensor, content.put_back


def _differ(group: Sequence[Contents]) -> Tensor:
    """Compare tensors of one device with what they held, byte by byte."""
    now = torch.cat([_bytes(content.tensor) for content in group])
    return now != torch.cat([content.copy for content in group])


def _is_plain(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    return plain and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or tensor.is_meta)


def _bytes(tensor: Tensor) -> Tensor:
    """Return the values as one row of bytes: NaN equals nothing and 0 equals −0, and autocast refuses some dtypes."""
    return tensor.reshape(-1).contiguous().view(torch.uint8)
