"""Buffers of modules: under which names they stand, what they hold, and the way back to that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


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
    copy: Tensor
    """Its values in one row, or a clone if it has no plain memory (sparse, quantised, a class of its own)."""
    version: int | None
    """Count of its changes, where bytes cannot be compared."""

    def restore(self, tensor: Tensor) -> None:
        """Give the tensor these values, unless it has them; its memory and its version stay the same if possible."""
        if self.version is not None:
            if tensor._version != self.version:
                tensor.copy_(self.copy)
        elif tensor.shape != self.shape or not _same_bytes(_row(tensor), self.copy):
            values = self.copy.view(self.shape)
            if tensor.dtype == values.dtype:
                with suppress(RuntimeError):  # of another size now, or several elements in one place
                    # Through data, as a graph that was built before may need the tensor.
                    tensor.data.copy_(values)
                    return
            tensor.data = values.clone()


def contents_of(tensors: Iterable[Tensor]) -> Iterator[Contents]:
    """Copy the values of tensors, with one copy for each device and dtype; lazy and meta tensors have none."""
    alike: dict[object, list[Tensor]] = {}
    for tensor in tensors:
        if _is_plain(tensor):
            alike.setdefault((tensor.device, tensor.dtype), []).append(tensor)
        elif not is_lazy(tensor) and not tensor.is_meta:
            with suppress(Exception):  # of a class whose tensors cannot be copied
                yield Contents(tensor, tensor.shape, tensor.detach().clone(), tensor._version)
    for group in alike.values():
        copies = torch.split(torch.cat([_row(tensor) for tensor in group]), [tensor.numel() for tensor in group])
        for tensor, copy in zip(group, copies, strict=True):
            yield Contents(tensor, tensor.shape, copy, None)


def changed(contents: Sequence[Contents]) -> Iterator[Contents]:
    """Return those that may differ from their tensors: one comparison for each device and dtype, if none does."""
    alike: dict[object, list[Contents]] = {}
    for content in contents:
        tensor = content.tensor
        same = content.version is None and tensor.dtype == content.copy.dtype and tensor.shape == content.shape
        if same and _is_plain(tensor):
            alike.setdefault((tensor.device, tensor.dtype), []).append(content)
        else:
            yield content
    for group in alike.values():
        now = torch.cat([_row(content.tensor) for content in group])
        if not _same_bytes(now, torch.cat([content.copy for content in group])):
            yield from group


def _is_plain(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    return plain and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or tensor.is_meta)


def _row(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1)


def _same_bytes(first: Tensor, second: Tensor) -> bool:
    """Compare two rows bit by bit, since NaN equals nothing and 0 equals −0."""
    return first.dtype == second.dtype and torch.equal(
        first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8)
    )
