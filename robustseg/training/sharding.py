"""The strategy ``fsdp2``: a network whose gradients and optimiser are spread over the processes (FSDP2)."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.strategies import ModelParallelStrategy, StrategyRegistry
from pytorch_lightning.trainer.states import TrainerFn, TrainerStatus
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from robustseg.training.split import TrainingError

FSDP2 = "fsdp2"
"""Name of the strategy for ``trainer.strategy``."""
_PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")


class ShardedStrategy(ModelParallelStrategy):
    """A strategy that keeps a part of each weight, gradient and state of the optimiser on each process (FSDP2).

    The weights are gathered once for a step, before the attack, and stay whole until the backward of the update. So an
    attack's forwards and gradients communicate as little as with DistributedDataParallel, nothing at all, and the
    processes may attack for different numbers of steps. The price is memory for the whole weights during a step;
    gradients and the optimiser's state, twice to three times as large, are never whole. Validation gathers once.

    Checkpoints are those of one process: whole tensors, under the same names, in one file that rank 0 writes.

    During training the module's ``model`` is a sharded copy. The model itself, in main memory, gets the trained weights
    at the end, and is what an evaluation runs.

    Args:
        unit_size: Number of weights of a block (an entry of ``nn.Sequential`` or ``nn.ModuleList``) from which its
            gradients are spread on their own, as soon as its backward is done; all others wait for the end.
        process_group_backend: ``"nccl"``, ``"gloo"``; by default that of the device.

    Raises:
        ValueError: ``unit_size`` is less than one.
    """

    def __init__(self, unit_size: int = 1_000_000, process_group_backend: str | None = None):
        if unit_size < 1:
            raise ValueError(f"unit_size = {unit_size}: use 1 or more.")
        super().__init__(save_distributed_checkpoint=False, process_group_backend=process_group_backend)
        self.unit_size = unit_size
        self._plain: nn.Module | None = None

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """The weights and the place in the data are restored first: the schedule's length opens the training data."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning restores the optimiser through :meth:`load_optimizer_state_dict`."""
        return True

    def setup_environment(self) -> None:
        """Make one group of all processes, without a second dimension for parallel tensors.

        Raises:
            TrainingError: See :meth:`check`.
        """
        assert self.lightning_module is not None
        if self.lightning_module.trainer.state.fn == TrainerFn.FITTING:
            self.check(self.lightning_module.trainer)
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def setup(self, trainer: pl.Trainer) -> None:
        """Spread the network for training, before its optimiser is built; anything else runs it as it is.

        Lightning's own does so in a hook of the module, which callbacks would then take for one that builds layers.
        """
        assert self.accelerator is not None
        assert self.model is not None
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting:
            self._shard()
        self.model_to_device()
        self.barrier()
        if fitting:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def teardown(self) -> None:
        """Put the plain network back, with the trained weights unless training was interrupted."""
        module: Any = self.lightning_module
        if self._plain is not None and module is not None:
            # after an error the other processes may not take part any more
            if module.trainer.state.status != TrainerStatus.INTERRUPTED:
                self._plain.load_state_dict(whole(module.model.state_dict()))
            module.model, self._plain = self._plain, None
            module.to(self.root_device)
        super().teardown()

    def check(self, trainer: pl.Trainer) -> None:
        """Refuse a trainer whose run cannot be spread.

        Raises:
            TrainingError: There is one process, or the precision or a callback does not go with it.
        """
        if trainer.world_size == 1:
            raise TrainingError(
                f"trainer.strategy is {FSDP2} and there is one process, with nothing to spread over: set "
                "trainer.devices to 2 or more, or trainer.strategy to auto."
            )
        if trainer.precision not in _PRECISIONS:
            raise TrainingError(
                f"trainer.precision is {trainer.precision}: {FSDP2} has no scaler for the gradients of processes; use "
                f"{' or '.join(_PRECISIONS)}, or trainer.strategy ddp."
            )
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, (WeightAveraging, StochasticWeightAveraging)):
                raise TrainingError(
                    f"trainer.callbacks has {type(callback).__name__}, which averages whole weights, and {FSDP2} keeps "
                    "parts of them: leave it out, or use trainer.strategy ddp."
                )

    def _shard(self) -> None:
        module: Any = self.lightning_module
        self._plain = module.model
        model = copy.deepcopy(module.model)
        if self._layer_sync is not None:
            model = self._layer_sync.apply(model)
        for tensor in model.state_dict().values():  # as DistributedDataParallel: rank 0's for all
            value = tensor.to(self.root_device)
            distributed.broadcast(value, 0)
            tensor.copy_(value)
        try:
            module.model = shard(model, self.device_mesh["data_parallel"], self.unit_size)
        except (ValueError, NotImplementedError) as error:
            raise TrainingError(f"trainer.strategy {FSDP2} cannot spread this network ({error}): use ddp.") from error

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Gather the whole weights; all processes have to call it."""
        assert self.lightning_module is not None
        return dict(whole(self.lightning_module.state_dict()))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Gather the whole state of an optimiser; all processes have to call it."""
        return dict(whole(optimizer.state_dict()))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint as on one process."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load whole weights, before they are spread."""
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this process's part of whole states of the optimisers."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            numbers = [number for group in state["param_groups"] for number in group["params"]]
            of = dict(zip(numbers, parameters, strict=True))
            entries = {
                number: {name: _part(value, of[number]) for name, value in entry.items()}
                for number, entry in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": entries})


StrategyRegistry.register(FSDP2, ShardedStrategy, description="gradients and optimiser spread over the processes")


def shard(model: nn.Module, mesh: DeviceMesh, unit_size: int) -> nn.Module:
    """Spread a model over the processes of a mesh, in place.

    Args:
        model: The model, equal on all processes, with the entries ``forward`` and ``forward_with_aux``; neither calls
            the other.
        mesh: One dimension of processes.
        unit_size: See :class:`ShardedStrategy`.

    Returns:
        The model, of a class made for it.
    """
    for parameter in model.parameters():  # FSDP2 takes no others; with the channels last the images keep that layout
        parameter.data = parameter.data.contiguous()
    # A weight that two modules share belongs to the root: the weights of a unit are gathered and freed together.
    places = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    containers = [module for module in model.modules() if isinstance(module, (nn.Sequential, nn.ModuleList))]
    blocks = {block for container in containers for block in container if not isinstance(block, _WITHOUT_FORWARD)}
    taken: set[int] = set()
    for block in reversed(list(model.modules())):  # the inner ones first
        sizes = {id(parameter): parameter.numel() for parameter in block.parameters() if id(parameter) not in taken}
        alone = all(places[key] == 1 for key in sizes)
        if block in blocks and alone and sum(sizes.values()) >= unit_size:
            fully_shard(block, mesh=mesh, reshard_after_forward=False)
            taken |= {id(parameter) for parameter in block.parameters()}  # they are others now
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(model, "forward_with_aux")
    return model


_WITHOUT_FORWARD = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def is_sharded(model: nn.Module) -> bool:
    """Return whether a model is spread over the processes."""
    return isinstance(model, FSDPModule)


def gather(model: nn.Module) -> None:
    """Gather the whole weights of a model that is sharded; forwards and input gradients leave them so."""
    for unit in _units(model):
        unit.unshard()
        unit.set_reshard_after_backward(False, recurse=False)


def spread(model: nn.Module, at_once: bool = True) -> None:
    """Free the weights of other processes again, at once or in the next backward."""
    for unit in _units(model):
        unit.set_reshard_after_backward(True, recurse=False)
        if at_once:
            unit.reshard()


def _units(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)] if is_sharded(model) else []


def own_part(value: Tensor) -> Tensor:
    """Return this process's part of a tensor; the tensor itself if it is not spread."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(state: Any) -> Any:
    """Gather the spread tensors in nested dicts and lists onto the CPU; all ranks have to call it."""
    if isinstance(state, dict):
        return type(state)((key, whole(value)) for key, value in state.items())
    if isinstance(state, (list, tuple)):
        return type(state)(whole(value) for value in state)
    return state.full_tensor().cpu() if isinstance(state, DTensor) else state


def _part(value: Any, like: Tensor | None) -> Any:
    """Cut this process's part out of a whole tensor if ``like``, of the same shape, is spread."""
    if not isinstance(value, Tensor) or not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    mesh, placements = like.device_mesh, like.placements
    # without communication, since each process has read the file
    return distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None)
