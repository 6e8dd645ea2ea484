"""Lightning's strategies that this package trains with, and their conditions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

from robustseg.training.module import RobustSegmentation
from robustseg.training.sharding import ShardedStrategy
from robustseg.training.split import TrainingError

_WAITING = ("Expected to have finished reduction", "parameters that were not used in producing the loss")
"""Words of torch's error about parameters without gradient, and of Lightning's in its place."""
SMALL_BATCH = 4
"""Images per process that BatchNorm needs for fair statistics of one process."""


def check_strategy(trainer: pl.Trainer, module: RobustSegmentation, batch_size: int) -> list[str]:
    """Refuse a trainer that would hang or train something other than configured.

    One device, DistributedDataParallel and :class:`~robustseg.training.sharding.ShardedStrategy` are tested: there the
    attacker runs its forwards on each rank alone, as many as it needs. Other strategies that shard layers make each
    forward a collective operation, so that ranks with different numbers of attack steps would deadlock.

    Synchronised BatchNorm (``trainer.sync_batchnorm``) is for the forward of the update only: the attack runs in eval
    mode, which does not communicate. Without it, each rank normalises with the statistics of its own images, and rank
    0's running statistics are kept.

    Args:
        trainer: The configured trainer, before training.
        module: The module that it will train.
        batch_size: Training images per process and step.

    Returns:
        Warnings, each one sentence.

    Raises:
        TrainingError: The strategy is another one or starts its processes otherwise, or an attack in train mode meets
            synchronised BatchNorm; the message names the setting.
    """
    strategy = trainer.strategy
    name = type(strategy).__name__
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy, ShardedStrategy)):
        raise TrainingError(
            f"trainer.strategy is {name}: an attack's forwards would be collectives there, and ranks that take "
            "different numbers of steps would wait for one another for ever; use ddp, fsdp2 (which gathers the weights "
            "before the attack), or auto on one device."
        )
    if isinstance(strategy, SingleDeviceStrategy):
        return []
    if isinstance(strategy, ShardedStrategy):
        strategy.check(trainer)
    elif strategy._start_method != "popen":
        raise TrainingError(
            f"trainer.strategy starts its processes by {strategy._start_method}: they would neither read the command "
            "line again nor hear of one another's failures; use ddp."
        )
    elif strategy._ddp_kwargs.get("static_graph"):
        changing = {
            "model.on_non_finite_loss is skip": module.non_finite.policy == "skip",
            "trainer.accumulate_grad_batches is more than 1": trainer.accumulate_grad_batches > 1,
        }
        for setting in (key for key, found in changing.items() if found):
            raise TrainingError(
                f"trainer.strategy has static_graph, and {setting}: the graph of a step is then not always the same; "
                "set static_graph to false."
            )
    layers = list(_batch_norms(module.model))
    synchronised = isinstance(strategy._layer_sync, TorchSyncBatchNorm) or any(
        isinstance(layer, nn.SyncBatchNorm) for layer in layers
    )
    if module.attack is not None and module.split.fraction and module.split.mode == "train" and synchronised:
        raise TrainingError(
            "model.attack_mode is train and BatchNorm is synchronised (trainer.sync_batchnorm): each of the attack's "
            "forwards would wait for the other ranks, whose attacks may take other numbers of steps; set "
            "model.attack_mode to eval, or trainer.sync_batchnorm to false."
        )
    if trainer.world_size > 1 and layers and not synchronised and batch_size < SMALL_BATCH:
        return [
            f"BatchNorm normalises over the {batch_size} images of each process: trainer.sync_batchnorm: true makes it "
            f"the {batch_size * trainer.world_size} of all."
        ]
    return []


@contextmanager
def named_gradients() -> Iterator[None]:
    """Translate DistributedDataParallel's error about parameters without gradient within the block.

    Raises:
        TrainingError: Some parameters had no part in an update.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in _WAITING):
            raise
        raise TrainingError(
            "an update did not depend on all parameters of model.network, for whose gradients the ranks wait: freeze "
            "those that it never uses (requires_grad = False in the network's constructor), or set trainer.strategy to "
            "ddp_find_unused_parameters_true if it uses others from step to step."
        ) from error


def _batch_norms(model: nn.Module) -> Iterator[nn.Module]:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return (layer for layer in model.modules() if isinstance(layer, kinds) and layer.training)
