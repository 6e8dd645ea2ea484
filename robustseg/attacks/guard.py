"""Attack mode: the state of the model and of autograd during an attack, restored afterwards."""

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
    """Error of an attack that cannot run on this model or these tensors; the message names the remedy."""


class NoGradientError(AttackError):
    """Error of a gradient attack on a model without an input gradient, or with one that is not finite."""


class NonFiniteError(AttackError):
    """Error of an attack whose model overflows or divides by zero on these images; other images may be fine."""


class NonFiniteGradientError(NonFiniteError, NoGradientError):
    """Error of an attack whose model gives gradients that are not finite."""


@contextmanager
def attack_mode(model: Model, mode: AttackMode = "eval") -> Iterator[Model]:
    """Prepare ``model`` for an attack and restore its state afterwards, also after an exception.

    Parameters are frozen, so that no weight gradients are computed; autograd is on, also inside
    ``torch.no_grad()`` and ``torch.inference_mode()``. With ``"eval"`` every submodule is in eval mode for the
    duration. With ``"train"`` the modules stay as they are (batch statistics, dropout), and the buffers, such as
    BatchNorm's running statistics, are restored; images of a batch then influence one another. Both modes restore
    torch's global random state after the model's own draws (dropout).

    A plain function is searched for the modules that it refers to, see :func:`modules_of`; modules that are not found
    keep their mode.

    The wrapper of DistributedDataParallel is removed: attack forwards must not arm its reducer or start
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
        # One module that holds all: a module that a function refers to twice counts once.
        held = nn.ModuleList(modules_of(model))
        # Per module and parameter: train() or requires_grad_() on the whole would unfreeze modules that were frozen.
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
    """Return the modules of a model: the module itself, or those that a plain function refers to.

    The search covers bound methods, ``functools.partial``, and the closure and the global names of a Python function,
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
    """Return whether a closure's variable has a value yet."""
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _named_buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor, Tensor]]:
    """Return owner, name, buffer and a copy of its values, for each buffer."""
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
