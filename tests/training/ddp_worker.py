"""One training step and one validation on one or two gloo ranks; the first rank writes what came out.

Run as ``python -m tests.training.ddp_worker FILE RANKS``; Lightning starts the second rank itself.
"""

from __future__ import annotations

import sys

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader

from robustseg.attacks import PGD
from robustseg.callbacks import RobustnessEvaluation
from robustseg.data import SyntheticScenes
from robustseg.data.lightning import SegmentationDataModule
from robustseg.training import RobustSegmentation
from robustseg.types import Batch
from tests.helpers.nets import ToyNetwork, toy_batch


class Recorder(pl.Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients = [parameter.grad.clone() for parameter in pl_module.model.parameters()]


def merged(parts: list[Batch]) -> Batch:
    """What one process sees: the clean halves of all ranks, then their adversarial halves."""
    halves = [Batch(*(field[half] for field in part)) for half in (slice(0, 2), slice(2, 4)) for part in parts]
    images, targets, ids = zip(*halves, strict=True)
    return Batch(torch.cat(images), torch.cat(targets), [sample for group in ids for sample in group])


class OneBatch(SegmentationDataModule):
    """Trains on one given batch per rank; validates on five scenes, so that ranks get three and two batches."""

    def __init__(self, ranks: int):
        super().__init__(SyntheticScenes(image_size=(32, 32), val_length=5, batch_size=4, val_batch_size=1))
        self.ranks = ranks

    def train_dataloader(self):
        parts = [toy_batch(4, seed=rank, num_classes=7) for rank in range(2)]
        batch = merged(parts) if self.ranks == 1 else parts[self.trainer.global_rank]
        return DataLoader([0], collate_fn=lambda _: batch)


def main(path: str, ranks: int) -> None:
    torch.set_num_threads(1)
    pl.seed_everything(3, verbose=False)
    net = RobustSegmentation(ToyNetwork(7, aux=True), attack=PGD(steps=2), loss_combination="sum_of_means")
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto",
        use_distributed_sampler=False,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[recorder, RobustnessEvaluation({"pgd2": PGD(steps=2)}, num_images=4)],
    )
    trainer.fit(net, datamodule=OneBatch(ranks))
    if trainer.is_global_zero:
        metrics = {name: value.clone() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        torch.save({"gradients": recorder.gradients, "metrics": metrics}, path)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
