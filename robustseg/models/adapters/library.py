"""Functions that the adapters share: imports, checks of arguments, and changes to the built networks."""

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
"""Sides in pixels of the images that are tried on a network; some vision transformers take one size only."""


def import_library(module: str, package: str, user: str) -> Any:
    """Import an optional library.

    Args:
        module: Name of the module.
        package: Name of the package to install, for the message.
        user: Name of the class that needs it, for the message.

    Raises:
        ModelError: The library, or one that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"{user} needs {module.partition('.')[0]}, which cannot be imported ({error}): pip install {package}."
        ) from error


def check_known(key: str, name: str, known: Iterable[str], owner: str) -> None:
    """Refuse a name that is not among the known ones.

    Raises:
        ModelError: The name is unknown; the message lists similar names, or the first twelve if there are none.
    """
    known = sorted(known)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=4, cutoff=0.6) or known[:12]
        raise ModelError(f"{key} = {name!r} is unknown to {owner}: did you mean {', '.join(close)}?")


def check_reserved(args: Mapping[str, Any], reserved: Mapping[str, str]) -> None:
    """Refuse arguments that the network sets itself.

    Args:
        args: The given arguments.
        reserved: The advice for each refused argument.

    Raises:
        ModelError: One of ``reserved`` is among the arguments.
    """
    for key in args:
        if key in reserved:
            raise ModelError(f"args may not hold {key}: {reserved[key]}.")


def reason(error: Exception) -> str:
    """Return a library's own message on one short line."""
    text = " ".join((str(error).strip() or type(error).__name__).split())
    return f"{type(error).__name__}: {text[:200]}"


def define_for_one(module: nn.Module) -> None:
    """Keep BatchNorm behind global pooling defined for a batch of one; see :class:`PooledBatchNorm2d`.

    Every plain BatchNorm2d is replaced, since only the size of the input shows which ones are behind a pooling.
    Elsewhere, and in the state dict, the two classes are the same.
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
    """Exclude parameters without effect on the logits from training: DistributedDataParallel would raise for them.

    Libraries build whole encoders and use some of their stages. The parameters stay in the state dict. They are found
    by a backward pass on the meta device, which computes no values and takes a fraction of a second.

    Args:
        network: The newly built network; parameters count as used if its ``forward_with_aux`` depends on them.
        sides: Sides in pixels of images that it takes, if known.
    """
    unused = _unused(network, (*sides, *_PROBES))
    for name, parameter in network.named_parameters():
        if name in unused:
            parameter.requires_grad_(False)
    if unused:
        logger.info("%s: no logit depends on %s, which are not trained", type(network).__name__, by_module(unused))


class _WithAux(nn.Module):
    """A network with a forward pass that returns the auxiliary logits as well."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.network.forward_with_aux(x)


def _unused(network: Network, sides: Iterable[int]) -> list[str]:
    """Return the names of parameters that get no gradient, or an empty list if they cannot be determined."""
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
        except Exception as error:  # about the size or anything else: the last one is reported
            refusal = error
    raise ModelError(f"no size of images works: {refusal}") from refusal
