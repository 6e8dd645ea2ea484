"""Leave no trace: the state of the model and of autograd around an attack."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CellType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Model = Callable[[Tensor], Tensor]
"""Anything that maps images (B×3×H×W in [0, 1]) to logits (B×C×H×W): a module or a plain function."""

AttackMode = Literal["eval", "train"]


class AttackError(RuntimeError):
    """An attack cannot go on with this model or these tensors; the message names the remedy."""


class NoGradientError(AttackError):
    """The model gives a gradient attack nothing to go by: no gradient, or one that is not finite."""


class NonFiniteError(AttackError):
    """The model overflows or divides by zero on these images; on others an attack may go on."""


class NonFiniteGradientError(NonFiniteError, NoGradientError):
    """It does so backwards."""


@contextmanager
def attack_mode(model: Model, mode: AttackMode = "eval") -> Iterator[Model]:
    """Prepare ``model`` to be attacked and put everything back afterwards, also after an exception.

    Parameters are frozen, so that no weight gradients are computed; autograd is on, also inside
    ``torch.no_grad()`` and ``torch.inference_mode()``. With ``"eval"`` every submodule is in eval mode for the
    duration. With ``"train"`` the modules stay as they are (batch statistics, dropout), and the buffers, such as
    BatchNorm's running statistics, are restored; images of a batch then influence one another. What the model
    itself draws from torch's global random state (dropout) is put back in both modes.

    A plain function is searched for the modules that it refers to, see :func:`modules_of`; what is not found there
    stays in the mode that it is in.

    The wrapper of DistributedDataParallel is taken off: attack forwards must not arm its reducer or start
    collectives.

    Raises:
        AttackError: ``"train"`` with synchronised BatchNorm on several ranks, which would deadlock as soon as two
            ranks take a different number of forwards.
        ValueError: Unknown ``mode``.
    """
    if mode not in ("eval", "train"):
        raise ValueError(f"attack mode = {mode!r}: use eval or train.")
    if isinstance(model, DistributedDataParallel):
        model = model.module
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
        # One module that holds all: what a function holds twice counts once.
        held = nn.ModuleList(modules_of(model))
        # Per module and parameter: a blanket train() or requires_grad_() afterwards would unfreeze what was frozen.
        training = [(module, module.training) for module in held.modules() if module is not held]
        trainable = [parameter for parameter in held.parameters() if parameter.requires_grad]
        buffers = _named_buffers(held) if mode == "train" else []
        if mode == "train":
            _refuse_synchronised_batchnorm(held)
        try:
            for parameter in trainable:
                parameter.requires_grad_(False)
            if mode == "eval":
                for module, _ in training:
                    module.training = False
            yield model
        finally:
            for module, flag in training:
                module.training = flag
            for parameter in trainable:
                parameter.requires_grad_(True)
            with torch.no_grad():
                for module, name, buffer, saved in buffers:
                    # Some modules change a buffer in place, others assign a new tensor.
                    setattr(module, name, buffer.copy_(saved))


def modules_of(model: Model) -> list[nn.Module]:
    """The modules that a model consists of: itself, or what a function refers to.

    Looked through are bound methods, ``functools.partial``, and the closure and the global names of a Python function,
    but not the functions that it calls, nor the attributes of other objects.
    """
    if isinstance(model, nn.Module):
        return [model]
    if isinstance(model, functools.partial):
        parts: list[Any] = [model.func, *model.args, *model.keywords.values()]
    elif inspect.ismethod(model):
        parts = [model.__self__]
    elif inspect.isfunction(model):
        cells = [cell for cell in model.__closure__ or () if _is_filled(cell)]
        names = [model.__globals__.get(name) for name in model.__code__.co_names]
        parts = [*(cell.cell_contents for cell in cells), *names]
    else:
        return []
    return [part for part in parts if isinstance(part, nn.Module)]


def _is_filled(cell: CellType) -> bool:
    """Whether a closure's variable has a value yet."""
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _named_buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor, Tensor]]:
    """Owner, name, buffer and a copy of its values."""
    owners = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
    return [(module, name, buffer, buffer.clone()) for module, name, buffer in owners if buffer is not None]


def _refuse_synchronised_batchnorm(model: nn.Module) -> None:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_world_size() > 1:
        for name, module in model.named_modules():
            if isinstance(module, nn.SyncBatchNorm) and module.training:
                raise AttackError(
                    f"attack_mode train would run the synchronised BatchNorm {name!r} inside the attack, which can "
                    "deadlock: use attack_mode eval, or BatchNorm that is not synchronised."
                )
