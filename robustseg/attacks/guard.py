"""Leave no trace: the state of the model and of autograd around an attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Model = Callable[[Tensor], Tensor]
"""Anything that maps images (B×3×H×W in [0, 1]) to logits (B×C×H×W): a module or a plain function."""

AttackMode = Literal["eval", "train"]


class AttackError(RuntimeError):
    """An attack cannot go on with this model or these tensors; the message names the remedy."""


@contextmanager
def attack_mode(model: Model, mode: AttackMode = "eval") -> Iterator[Model]:
    """Prepare ``model`` to be attacked and put everything back afterwards, also after an exception.

    Parameters are frozen, so that no weight gradients are computed; autograd is on, also inside
    ``torch.no_grad()`` and ``torch.inference_mode()``. With ``"eval"`` every submodule is in eval mode for the
    duration. With ``"train"`` the modules stay as they are (batch statistics, dropout), and the buffers, such as
    BatchNorm's running statistics, are restored; images of a batch then influence one another. What the model
    itself draws from torch's global random state (dropout) is put back in both modes.

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
        if not isinstance(model, nn.Module):
            yield model
            return
        # Per module and parameter: a blanket train() or requires_grad_() afterwards would unfreeze what was frozen.
        training = [(module, module.training) for module in model.modules()]
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        buffers = _named_buffers(model) if mode == "train" else []
        if mode == "train":
            _refuse_synchronised_batchnorm(model)
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
