"""The optimiser of a network, with a learning rate of its own for what is no backbone."""

from __future__ import annotations

from collections.abc import Sequence

from pytorch_lightning.cli import OptimizerCallable
from torch import nn
from torch.optim import Optimizer

from robustseg.training.split import TrainingError


def build_optimizer(
    network: nn.Module, parameters: Sequence[nn.Parameter], make: OptimizerCallable, head_lr_factor: float
) -> Optimizer:
    """Build the optimiser with two groups of parameters: those of the network's ``backbone``, and the others.

    Args:
        network: The network.
        parameters: The parameters to optimise.
        make: Function that takes the groups and returns an optimiser.
        head_lr_factor: Learning rate of the others, relative to the optimiser's.

    Raises:
        TrainingError: The optimiser refuses its settings.
    """
    backbone = getattr(network, "backbone", None)
    in_backbone = {id(p) for p in backbone.parameters()} if isinstance(backbone, nn.Module) else set()
    groups = [[p for p in parameters if (id(p) in in_backbone) is inside] for inside in (True, False)]
    try:
        optimizer = make([{"params": group} for group in groups if group])
    except ValueError as error:
        raise TrainingError(f"model.optimizer: {error}.") from error
    if head_lr_factor != 1 and groups[1]:
        optimizer.param_groups[-1]["lr"] *= head_lr_factor
    return optimizer
