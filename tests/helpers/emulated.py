"""An emulated device: real values and gradients on the CPU, with what a GPU does differently.

Tensors lie on :data:`DEVICE`. An operation on tensors of two devices raises, as it does on a GPU, and each wait of the
host for the device is noted. Autograd runs on the CPU, since this device's engine is the CPU's.
"""

from __future__ import annotations

import traceback

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
"""The only device besides the CPU for which every build of torch has an autograd engine."""
CPU = torch.device("cpu")


class OnDevice(Tensor):
    """A tensor that says that it lies on the device, around its values on the CPU."""

    values: Tensor
    is_meta = False

    @staticmethod
    def __new__(cls, values: Tensor) -> OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls, values.shape, values.stride(), values.storage_offset(), dtype=values.dtype, device=DEVICE
        )
        made.values = values
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"OnDevice({self.values})"

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return Emulation().__torch_dispatch__(func, types, args, kwargs)


class Emulation(TorchDispatchMode):
    """Runs operations of the device, refuses mixed ones, and notes what waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        """Operation and place of each wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__.rstrip("_")
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        wanted = kwargs.get("device")
        ends_here = bool(here) if wanted is None else torch.device(wanted) == DEVICE
        if name in ("_to_copy", "copy"):
            self._look_at_copy(name, bool(here), ends_here, args, kwargs)
        elif here:
            self._look_at(func, name, tensors, args)
        if wanted is not None:
            kwargs["device"] = CPU
        plain_args, plain_kwargs = pytree.tree_map_only(OnDevice, lambda tensor: tensor.values, (args, kwargs))
        found = func(*plain_args, **plain_kwargs)
        if not ends_here:
            return found
        given = {id(tensor.values): tensor for tensor in here}  # what was changed in place stays the same object
        return pytree.tree_map_only(
            Tensor, lambda made: given[id(made)] if id(made) in given else OnDevice(made), found
        )

    def _look_at_copy(self, name: str, starts_here: bool, ends_here: bool, args, kwargs) -> None:
        """Note a copy between the devices, but one to the device that does not block."""
        if name == "copy":
            ends_here, starts_here = (isinstance(tensor, OnDevice) for tensor in args[:2])
        blocks = not (kwargs.get("non_blocking") or (name == "copy" and args[2:] and args[2]))
        if starts_here and not ends_here and not blocks:
            raise RuntimeError(f"{name}: the host may read this copy before it is there")
        if starts_here != ends_here and (blocks or not ends_here):
            self._note(f"{name} {'to' if ends_here else 'from'} the device")

    def _look_at(self, func, name: str, tensors: list[Tensor], args) -> None:
        """Refuse an operation with tensors that lie elsewhere, and note one that waits."""
        # A tensor without dimensions may lie on the CPU; so may an index, which is copied, and the copy waits.
        others = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.ndim]
        is_index = name in ("index", "index_put") and not any(tensor.is_floating_point() for tensor in others)
        if others and (not is_index or any(tensor.is_meta for tensor in others)):
            raise RuntimeError(f"{func}: a tensor lies elsewhere, or is of torch.tensor(…, device=…): use on_device()")
        masks = is_index and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if others or masks or name in _WAITING or "unique" in name:
            self._note(name)

    def _note(self, name: str) -> None:
        places = [frame for frame in traceback.extract_stack() if "/robustseg/" in frame.filename]
        place = f"{places[-1].filename.rpartition('/robustseg/')[2]}:{places[-1].lineno}" if places else "the test"
        self.waits.append(f"{name} at {place}")


_WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "item"}


def to_device(tensor: Tensor) -> Tensor:
    return OnDevice(tensor.detach())


def put(module: nn.Module) -> nn.Module:
    """Put a module's parameters and buffers on the device, in place."""
    for part in module.modules():
        for name, parameter in [*part._parameters.items()]:
            if parameter is not None:
                part._parameters[name] = nn.Parameter(to_device(parameter), requires_grad=parameter.requires_grad)
        for name, buffer in [*part._buffers.items()]:
            if buffer is not None:
                part._buffers[name] = to_device(buffer)
        for name in getattr(part, "_defaults", ()):  # the states of a metric
            if isinstance(state := getattr(part, name), Tensor):
                setattr(part, name, to_device(state))
    return module
