"""What the adapters share."""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustseg.models.checkpoints.compare import by_module
from robustseg.models.errors import ModelError
from robustseg.models.heads import PooledBatchNorm2d
from robustseg.models.network import Network

logger = logging.getLogger(__name__)

_PROBES = (256, 224, 384, 512, 448, 518)
"""Sides of the images that are tried on a network; some vision transformers take one size only."""


def import_library(module: str, package: str, user: str) -> Any:
    """Import a library at the moment that it is needed.

    Args:
        module: What to import.
        package: What to install.
        user: Class that needs it, for the message.

    Raises:
        ModelError: It is not installed, or something that it needs is not.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"{user} needs {module.partition('.')[0]}, which cannot be imported ({error}): pip install {package}."
        ) from error


def check_known(key: str, name: str, known: Iterable[str], owner: str) -> None:
    """Refuse a name that is none of those known.

    Raises:
        ModelError: With the names that are like it, or all of them where none is.
    """
    known = sorted(known)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=4, cutoff=0.6) or known[:12]
        raise ModelError(f"{key} = {name!r} is unknown to {owner}: did you mean {', '.join(close)}?")


def check_reserved(args: Mapping[str, Any], reserved: Mapping[str, str]) -> None:
    """Refuse arguments that are not the user's to give.

    Args:
        args: Those given.
        reserved: What to do instead, by argument.

    Raises:
        ModelError: One of ``reserved`` is among them.
    """
    for key in args:
        if key in reserved:
            raise ModelError(f"args may not hold {key}: {reserved[key]}.")


def reason(error: Exception) -> str:
    """A library's own message, on one short line."""
    text = " ".join((str(error).strip() or type(error).__name__).split())
    return f"{type(error).__name__}: {text[:200]}"


def define_for_one(module: nn.Module) -> None:
    """Keep BatchNorm behind global pooling defined for a batch of one; see :class:`PooledBatchNorm2d`.

    Every plain BatchNorm2d is replaced, as only the size that arrives tells which are behind a pooling; elsewhere,
    and in the state dict, the two are the same.
    """
    for child in module.modules():
        for name, layer in child.named_children():
            if type(layer) is nn.BatchNorm2d:
                new = PooledBatchNorm2d(
                    layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
                )
                new.load_state_dict(layer.state_dict(), assign=True)
                for own, parameter in layer.named_parameters(recurse=False):
                    setattr(new, own, parameter)
                new.train(layer.training)
                setattr(child, name, new)


def freeze_unused(network: Network, sides: Iterable[int] = ()) -> None:
    """Exclude from training what no logit depends on, which distributed training would otherwise refuse to wait for.

    Libraries build encoders whole and use some of their stages. The parameters stay in the state dict. They are found
    by a backward pass over tensors without values, which computes nothing and takes a fraction of a second.

    Args:
        network: Just built; its ``forward_with_aux`` tells what is used.
        sides: Of images that it takes, where that is known.
    """
    unused = _unused(network, (*sides, *_PROBES))
    for name, parameter in network.named_parameters():
        if name in unused:
            parameter.requires_grad_(False)
    if unused:
        logger.info("%s: no logit depends on %s, which are not trained", type(network).__name__, by_module(unused))


class _WithAux(nn.Module):
    """A network whose forward pass gives the auxiliary logits too."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.network.forward_with_aux(x)


def _unused(network: Network, sides: Iterable[int]) -> list[str]:
    """Parameters that get no gradient; none where that cannot be found out."""
    whole = _WithAux(network)
    training = {module: module.training for module in network.modules()}
    buffers = {name: torch.empty_like(value, device="meta") for name, value in whole.named_buffers()}
    with torch.inference_mode(False), torch.enable_grad():
        parameters = {
            name: torch.empty_like(value, device="meta").requires_grad_()
            for name, value in whole.named_parameters()
            if value.requires_grad
        }
        fixed = {
            name: torch.empty_like(value, device="meta")
            for name, value in whole.named_parameters()
            if not value.requires_grad
        }
        try:
            # without stochastic depth, which may leave out a block by chance
            network.eval()
            outputs = _outputs(whole, {**parameters, **fixed, **buffers}, sides)
            total = sum(output.sum() for output in outputs if output is not None and output.requires_grad)
            if not isinstance(total, Tensor):
                return []
            gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        except Exception as error:  # what a library does may want values
            logger.debug("unused parameters of %s are not known: %s", type(network).__name__, reason(error))
            return []
        finally:
            for module, was_training in training.items():
                module.training = was_training
    return [
        name.removeprefix("network.") for name, gradient in zip(parameters, gradients, strict=True) if gradient is None
    ]


def _outputs(whole: nn.Module, tensors: dict[str, Tensor], sides: Iterable[int]) -> tuple[Tensor | None, ...]:
    refusal: Exception | None = None
    for side in sides:
        try:
            outputs: tuple[Tensor | None, ...] = functional_call(
                whole, tensors, (torch.empty(1, 3, side, side, device="meta"),)
            )
            return outputs
        except Exception as error:  # of the size, or of anything else: the last one is told
            refusal = error
    raise ModelError(f"no size of images works: {refusal}") from refusal
