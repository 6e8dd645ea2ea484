"""Robust scores at validation and at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console
from torch import Tensor

from robustseg.attacks import Attack, Targeted
from robustseg.callbacks.pictures import log_panel
from robustseg.callbacks.progress import find_progress_bar
from robustseg.data import SegmentationDataModule
from robustseg.evaluation import (
    CLEAN,
    Attacked,
    Example,
    RobustnessEvaluator,
    distances_table,
    results_record,
    scores_table,
    write_json,
)
from robustseg.training import RobustSegmentation
from robustseg.types import Batch

_LOGGED = ("miou", "pixel_acc", "image_miou")


class RobustnessEvaluation(pl.Callback):
    """Scores the model under attacks, with what it sees in validation and test batches.

    At validation it logs ``val/<attack>/miou`` (also ``pixel_acc`` and ``image_miou``), and the clean scores of the
    same images as ``val/clean/miou``, which ModelCheckpoint can monitor. A test (the end of a training run, or an
    evaluation) runs all attacks on all images, logs under ``test/``, prints a table and writes ``robustness.json``.
    Figures are exact over the data set: no autocast, one confusion matrix, every image once.

    Args:
        attacks: Attacks by the name they are reported under.
        validate_with: Names of the attacks to run at validation; all by default, none if empty.
        every_n_epochs: Run at the validation of every N-th epoch (epochs N, 2N, …); 0 for never.
        num_images: Number of images to use at validation, the first of the split; all by default.
        test_num_images: The same for a test.
        num_examples: Rows of the pictures that go to TensorBoard for each attack; 0 for none.

    Raises:
        ValueError: A number is out of range, or ``validate_with`` names an unknown attack.
    """

    def __init__(
        self,
        attacks: dict[str, Attack] | None = None,
        validate_with: list[str] | None = None,
        every_n_epochs: int = 1,
        num_images: int | None = None,
        test_num_images: int | None = None,
        num_examples: int = 4,
    ):
        self.attacks = dict(attacks or {})
        unknown = [name for name in validate_with or [] if name not in self.attacks]
        if unknown:
            known = ", ".join(self.attacks) or "none"
            raise ValueError(f"validate_with names {', '.join(unknown)}, but robustness.attacks has: {known}.")
        if every_n_epochs < 0:
            raise ValueError(f"every_n_epochs = {every_n_epochs} is negative: use 0 to leave validation clean.")
        for name, number in (("num_images", num_images), ("test_num_images", test_num_images)):
            if number is not None and number < 1:
                raise ValueError(f"{name} = {number}: use at least one image, or null for all.")
        self.validate_with = list(self.attacks) if validate_with is None else validate_with
        self.every_n_epochs = every_n_epochs
        self.num_images = num_images
        self.test_num_images = test_num_images
        self.num_examples = num_examples
        self.about: dict[str, Any] = {}
        """Facts for the JSON that only the caller knows, such as the checkpoint's hash."""
        self.record: dict[str, Any] | None = None
        """What the last test wrote."""
        self._evaluator: RobustnessEvaluator | None = None
        self._images_left = 0
        self._examples: dict[str, list[Example]] = {}

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting if this epoch is one to evaluate."""
        due = self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        wanted = {name: self.attacks[name] for name in self.validate_with}
        alone = trainer.state.fn == TrainerFn.VALIDATING
        if wanted and (due or alone) and not trainer.sanity_checking:
            self._start(trainer, pl_module, wanted, self.num_images)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attack this batch."""
        self._update(trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the scores."""
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting, with all attacks."""
        self._start(trainer, pl_module, self.attacks, self.test_num_images)

    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the scores, print the table, write the record."""
        scores = self._finish(trainer, pl_module, "test")
        folder = trainer.log_dir or trainer.default_root_dir  # log_dir is a broadcast: all ranks must ask for it
        if scores is not None and trainer.is_global_zero:
            self._report(trainer, pl_module, scores, Path(folder))

    def _start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        attacks: Mapping[str, Attack],
        num_images: int | None,
    ) -> None:
        module = _as_robust(pl_module)
        self._evaluator = RobustnessEvaluator(
            attacks, module.model.num_classes, module.ignore_index, module.seed, module.device
        )
        self._examples = {name: [] for name in attacks}
        if num_images is None:
            num_images = 2**62
        # An unpadded distributed sampler gives rank r the images r, r + world, …: these are r's share of the first.
        self._images_left = len(range(trainer.global_rank, num_images, trainer.world_size))

    def _update(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch) -> None:
        if self._evaluator is None or not self._images_left:
            return
        take = min(self._images_left, len(batch.images))
        self._images_left -= take
        images, targets, ids = batch.images[:take], batch.targets[:take], batch.ids[:take]
        bar = find_progress_bar(trainer)
        model = _as_robust(pl_module).model
        seen = self._evaluator.update(model, ids, images, targets, None if bar is None else bar.attack_step)
        if bar is not None:
            bar.attacks_done()
        if trainer.is_global_zero:
            self._keep_examples(seen, ids, images, targets)

    def _keep_examples(self, seen: Mapping[str, Attacked], ids: list[str], images: Tensor, targets: Tensor) -> None:
        for name, kept in self._examples.items():
            for row in range(min(len(ids), self.num_examples - len(kept))):
                tensors = (
                    images[row],
                    seen[name].images_adv[row],
                    targets[row],
                    seen[CLEAN].predictions[row],
                    seen[name].predictions[row],
                )
                kept.append(Example(ids[row], *(tensor.detach().cpu() for tensor in tensors)))

    def _finish(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str
    ) -> dict[str, dict[str, Tensor]] | None:
        if self._evaluator is None:
            return None
        scores = self._evaluator.compute()
        for name, row in scores.items():
            for figure in _LOGGED:
                pl_module.log(f"{stage}/{name}/{figure}", row[figure].float())
        for name, examples in self._examples.items():
            log_panel(trainer, f"{stage}/{name}", examples)
        self._evaluator, self._examples = None, {}
        return scores

    def _report(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, scores: dict[str, dict[str, Tensor]], folder: Path
    ) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        classes = [str(index) for index in range(_as_robust(pl_module).model.num_classes)]
        about = {
            "data": type(data).__name__ if data is not None else None,
            "split": data.test_split() if isinstance(data, SegmentationDataModule) else None,
            "precision": str(next(pl_module.parameters()).dtype).removeprefix("torch."),
            "images": int(scores[CLEAN]["images"]),
            "seed": _as_robust(pl_module).seed,
            **self.about,
        }
        self.record = results_record(scores, self.attacks, getattr(data, "class_names", classes), about)
        path = folder / "robustness.json"
        write_json(self.record, path)
        console = Console()
        console.print(scores_table(scores, f"{about['data']} {about['split']}, {about['images']} images, in %"))
        unbounded = [name for name, a in self.attacks.items() if a.threat is None and not isinstance(a, Targeted)]
        if unbounded:
            console.print(distances_table(scores, unbounded))
        console.print(f"written to {path}")


def _as_robust(pl_module: pl.LightningModule) -> RobustSegmentation:
    if not isinstance(pl_module, RobustSegmentation):
        raise TypeError(f"RobustnessEvaluation needs a RobustSegmentation module, not {type(pl_module).__name__}.")
    return pl_module
