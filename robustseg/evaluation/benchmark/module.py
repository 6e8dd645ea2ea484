"""The Lightning module of an evaluation, so that the Trainer's test provides devices, ranks and the progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from robustseg.data import collate
from robustseg.evaluation import DiskSink, Evaluator
from robustseg.evaluation.attack_stage import AttackStage
from robustseg.evaluation.benchmark.facts import commit, versions
from robustseg.evaluation.benchmark.plan import Benchmark
from robustseg.terminal import shown
from robustseg.types import Batch, Sample


class EvaluationModule(pl.LightningModule):
    """A Lightning module that measures the missing records of a benchmark; each rank measures its part of the shard.

    Args:
        benchmark: The benchmark.
        folder: Folder of the evaluation.
        stage: Display of the attacks.
    """

    def __init__(self, benchmark: Benchmark, folder: Path, stage: AttackStage):
        super().__init__()
        self.model = benchmark.model
        # Registered so that Lightning moves them to the device; by number, since names may hold dots.
        self.scored = nn.ModuleList(benchmark.scored.values())
        self.benchmark = benchmark
        self.folder = folder
        self.stage = stage
        self._evaluator: Evaluator | None = None
        # A rank with a complete part has nothing to load while others continue.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def setup(self, stage: str) -> None:
        """Open the folder.

        Raises:
            EvaluationError: It belongs to another evaluation.
        """
        of = self.benchmark
        rank = f"-rank{self.trainer.global_rank}" if self.trainer.world_size > 1 else ""
        sink = DiskSink(
            self.folder,
            of.facts,
            f"shard{of.shard.number}of{of.shard.count}{rank}",
            {"versions": versions(), "commit": commit()},
            of.num_pictures,
            of.data.ignore_index,
        )
        self._evaluator = Evaluator(
            of.attacks,
            self.model.num_classes,
            sink,
            of.data.ignore_index,
            of.seed,
            scored_on=of.scored_on,
            views=of.every_view,
            for_itself=of.for_itself,
            targets=of.targets,
            search=of.search,
            count_void=of.count_void,
        )

    def test_dataloader(self) -> _Batches:
        """Return the batches of this rank with missing records; each image is on one rank only."""
        assert self._evaluator is not None
        dataset = self.benchmark.data.dataset(self.benchmark.split)
        # Chosen by their place in the shard, since the missing batches change while other ranks start.
        mine = self.benchmark.batches()[self.trainer.global_rank :: self.trainer.world_size]
        lacking = {index: self._evaluator.lacking(dataset.sample_id(index)) for batch in mine for index in batch}
        self.stage.plan(list(lacking.values()))
        loader = DataLoader(
            dataset,
            batch_sampler=[batch for batch in mine if any(lacking[index] for index in batch)],
            num_workers=self.benchmark.data.num_workers,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
        )
        return _Batches(loader)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Attack this batch."""
        assert self._evaluator is not None
        scored = dict(zip(self.benchmark.scored, self.scored, strict=True)) or None
        self._evaluator.update(self.model, batch.ids, batch.images, batch.targets, self._stage(), scored)

    def on_test_end(self) -> None:
        """Close the file of records."""
        self.close()

    def close(self) -> None:
        """Close the file of records, also after an error."""
        if self._evaluator is not None:
            self._evaluator.close()

    def _stage(self) -> AttackStage | None:
        """Return the display of the attacks; None if nothing is drawn."""
        return self.stage if shown().visible else None


class _Batches:
    """A wrapper of a DataLoader, since Lightning would replace a DataLoader's sampler on several ranks."""

    def __init__(self, loader: DataLoader[Sample]):
        self._loader = loader

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)

    def __len__(self) -> int:
        return len(self._loader)
