"""A few steps of training on two gloo ranks under a strategy, with attacks of uneven length; writes what came out.

Run as ``python -m tests.training.sharding_worker FOLDER STRATEGY``; Lightning starts the second rank itself.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import distributed
from torch.utils.data import DataLoader

from robustseg.attacks import PGD
from robustseg.callbacks import RobustnessEvaluation
from robustseg.models import Compile
from robustseg.training import RobustSegmentation
from robustseg.training.sharding import ShardedStrategy, is_sharded
from tests.helpers.nets import ToyNetwork, toy_batch
from tests.training.ddp_worker import OneBatch

STRATEGIES = {
    "ddp": lambda: DDPStrategy(process_group_backend="gloo"),
    "fsdp2": ShardedStrategy,
    "units": lambda: ShardedStrategy(unit_size=1),
}
LOW = "low_"
"""Prefix of a strategy in bf16-mixed, with a compiled network and the channels last."""
BROKEN = 2
"""The step at which rank 1's loss is not finite."""


class Steps(OneBatch):
    def train_dataloader(self):
        batch = toy_batch(4, seed=self.trainer.global_rank, num_classes=7)
        return DataLoader(range(3), collate_fn=lambda _: batch)


class Calls:
    """The names of the collectives that Python called."""

    made: ClassVar[list[str]] = []

    @classmethod
    def count(cls) -> None:
        for name in ("all_reduce", "broadcast", "all_gather_single", "reduce_scatter_single"):
            setattr(distributed, name, partial(cls._call, name, getattr(distributed, name)))

    @classmethod
    def _call(cls, name: str, call: Any, *arguments: Any, **options: Any) -> Any:
        cls.made.append(name)
        return call(*arguments, **options)


class Breaking(RobustSegmentation):
    def training_step(self, batch, batch_idx):
        if self.global_step == BROKEN and self.global_rank == 1:
            batch = batch._replace(images=batch.images * float("nan"))
            attack, self.attack = self.attack, None
            try:
                return super().training_step(batch, batch_idx)
            finally:
                self.attack = attack
        return super().training_step(batch, batch_idx)


class Watch(pl.Callback):
    """Parts of weights and of the optimiser on this rank, as shares of the whole."""

    shares = (0.0, 0.0)

    def on_train_end(self, trainer, pl_module):
        whole = sum(parameter.numel() for parameter in pl_module.model.parameters())
        entries = [value for entry in trainer.optimizers[0].state.values() for value in entry.values() if value.ndim]
        local = [value.to_local() if hasattr(value, "to_local") else value for value in entries]
        parts = [p.to_local() if hasattr(p, "to_local") else p for p in pl_module.model.parameters()]
        kept = sum(part.numel() for part in parts), sum(part.numel() for part in local) / 2
        self.shares = (kept[0] / whole, kept[1] / whole)
        assert is_sharded(pl_module.model) == isinstance(trainer.strategy, ShardedStrategy)


def main(folder: Path, name: str) -> None:
    torch.set_num_threads(1)
    pl.seed_everything(3, verbose=False)
    low = name.startswith(LOW)
    net = Breaking(
        ToyNetwork(7, aux=True), optimizer=partial(torch.optim.AdamW, lr=0.01), on_non_finite_loss="skip",
        compile=low and Compile(backend="eager"), channels_last=low,
    )  # fmt: skip
    watch = Watch()
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy=STRATEGIES[name.removeprefix(LOW)](), max_epochs=2,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        precision="bf16-mixed" if low else "32-true", use_distributed_sampler=False,
        callbacks=[watch, RobustnessEvaluation({"pgd2": PGD(steps=2)}, num_images=4)],
    )  # fmt: skip
    rank = trainer.global_rank
    if rank:  # another start on each rank, as without a seed
        with torch.no_grad():
            net.model.network.head.bias += 1
    net.attack = PGD(steps=1 + 2 * rank)
    net.attack.perturb = watched(net.attack.perturb)  # type: ignore[method-assign]
    Calls.count()
    trainer.fit(net, datamodule=Steps(2))
    trainer.save_checkpoint(folder / f"{name}.ckpt")
    figures = {key: value.item() for key, value in trainer.callback_metrics.items()}
    plain = {key: value.clone() for key, value in net.model.state_dict().items()}
    found = {"figures": figures, "model": plain, "class": type(net.model).__name__, "shares": list(watch.shares)}
    found["skipped"] = net.non_finite.skipped
    torch.save(found, folder / f"{name}{rank}.pt")


def watched(perturb: Any) -> Any:
    def perturb_alone(*arguments: Any, **options: Any) -> Any:
        before = len(Calls.made)
        images_adv = perturb(*arguments, **options)
        assert len(Calls.made) == before, Calls.made[before:]
        return images_adv

    return perturb_alone


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
