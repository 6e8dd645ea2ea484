"""Parameters that no logit depends on, which several ranks could not train."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustseg.models.checkpoints.compare import by_module
from robustseg.models.errors import ModelError
from robustseg.models.network import Network

logger = logging.getLogger(__name__)

_PROBES = (256, 224, 384, 512, 448, 518)
"""Sides in pixels of the images that are tried on a network; some vision transformers take one size only."""


def freeze_unused(
    network: nn.Module, sides: Iterable[int] = (), with_aux: bool = True, values: bool = False
) -> frozenset[nn.Parameter]:
    """Exclude parameters without effect on the logits from training: DistributedDataParallel would raise for them.

    Libraries build whole encoders and use some of their stages, and an auxiliary head may have no weight. The
    parameters stay in the state dict. They are found by backward passes on the meta device, which compute no values and
    take a fraction of a second. A parameter that is used in one of the modes stays: stochastic depth may leave out
    blocks in train mode, and some networks have auxiliary logits in that mode only.

    Args:
        network: The network.
        sides: Sides in pixels of images that it takes, if known.
        with_aux: Parameters count as used if the auxiliary logits depend on them.
        values: Compute with values where the meta device does not suffice, which takes as long as two updates.

    Returns:
        The parameters that were frozen here.
    """
    unused = _unused(network, (*sides, *_PROBES), with_aux, values)
    frozen = [parameter for name, parameter in network.named_parameters() if name in unused]
    for parameter in frozen:
        parameter.requires_grad_(False)
    if unused:
        logger.info("%s: no logit depends on %s, which are not trained", type(network).__name__, by_module(unused))
    return frozenset(frozen)


class _Logits(nn.Module):
    """A network whose forward pass returns all logits that an update depends on."""

    def __init__(self, network: nn.Module, with_aux: bool) -> None:
        super().__init__()
        self.network = network
        self.with_aux = with_aux and isinstance(network, Network)

    def forward(self, x: Tensor) -> tuple[Tensor | None, ...]:
        if self.with_aux:
            return self.network.forward_with_aux(x)  # type: ignore[operator, no-any-return]
        return (self.network(x),)


def _unused(network: nn.Module, sides: Iterable[int], with_aux: bool, values: bool) -> list[str]:
    """Return the names of parameters that get no gradient, or an empty list if they cannot be determined."""
    whole = _Logits(network, with_aux)
    found = []
    for training in (False, True):
        for meta in (True, False) if values else (True,):
            try:
                with _mode(network, training), torch.inference_mode(False), torch.enable_grad():
                    found.append(_without_gradient(whole, tuple(sides), meta))
                break
            except Exception as error:  # what a network does on the meta device may want values
                logger.debug("unused parameters of %s are not known: %s", type(network).__name__, error)
    return [name for name in found[0] if all(name in others for others in found)] if found else []


def _without_gradient(whole: _Logits, sides: Iterable[int], meta: bool) -> list[str]:
    trained, tensors = {}, {}
    for name, value in (*whole.named_parameters(), *whole.named_buffers()):
        tensors[name] = torch.empty_like(value, device="meta") if meta else value.detach().clone()
        if value.requires_grad:
            trained[name] = tensors[name].requires_grad_()
    outputs = _outputs(whole, tensors, sides)
    total = sum(output.sum() for output in outputs if output is not None and output.requires_grad)
    if not isinstance(total, Tensor):
        return []
    gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    pairs = zip(trained, gradients, strict=True)
    return [name.removeprefix("network.") for name, gradient in pairs if gradient is None]


def _outputs(whole: nn.Module, tensors: dict[str, Tensor], sides: Iterable[int]) -> tuple[Tensor | None, ...]:
    refusal: Exception | None = None
    device = next(iter(tensors.values())).device
    for side in sides:
        try:
            # two images, as BatchNorm wants in train mode
            outputs: tuple[Tensor | None, ...] = functional_call(
                whole, tensors, (torch.zeros(2, 3, side, side, device=device),)
            )
            return outputs
        except Exception as error:  # about the size or anything else: the last one is reported
            refusal = error
    raise ModelError(f"no size of images works: {refusal}") from refusal


@contextmanager
def _mode(network: nn.Module, training: bool) -> Iterator[None]:
    """Put all modules into a mode within the block, and leave the random state as it was."""
    before = {module: module.training for module in network.modules()}
    try:
        with torch.random.fork_rng(devices=[]):
            network.train(training)
            yield
    finally:
        for module, mode in before.items():
            module.training = mode
