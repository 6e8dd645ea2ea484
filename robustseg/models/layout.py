"""Layout of a network's tensors in memory with the channels last (B×H×W×C), the fastest one of convolutions on GPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call


def to_channels_last(network: nn.Module) -> None:
    """Change the layout of the weights of 2-D convolutions in place; their names and values stay."""
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def layout_at_fault(network: nn.Module, normalised: Tensor, error: Exception) -> str:
    """Return what a network raises with the channels last if it works in the usual layout, otherwise an empty string.

    Args:
        network: The network; unchanged.
        normalised: Its input.
        error: What its forward pass raised, perhaps when it was compiled.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return ""
    raised = _raised(network, normalised, torch.channels_last)
    return raised if raised and not _raised(network, normalised, torch.contiguous_format) else ""


def _raised(network: nn.Module, normalised: Tensor, layout: torch.memory_format) -> str:
    """Return what a forward pass in a layout raises, in a line, or an empty string."""
    tensors = {name: tensor.detach() for name, tensor in network.named_parameters()}
    tensors |= {name: tensor.clone() for name, tensor in network.named_buffers()}
    if layout == torch.contiguous_format:
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    device = normalised.device
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            functional_call(network, tensors, (normalised.detach().contiguous(memory_format=layout),))
    except Exception as error:
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ""
