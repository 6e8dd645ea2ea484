"""The bill of a training: updates with the attacker in the loop, validations under attack, and the last evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging

from robustseg.attacks import Attack
from robustseg.callbacks import RobustnessEvaluation
from robustseg.data.lightning import SegmentationDataModule
from robustseg.evaluation.attack_stage import gradient_steps
from robustseg.evaluation.attacking import CLEAN
from robustseg.planning.bill import Bill, Item
from robustseg.planning.evaluation import Part, attack_items, items_of, load_sizes, scoring_seconds
from robustseg.planning.rates import Scored, clock_of, device_name, measure_rates, peak_memory
from robustseg.training import RobustSegmentation

MOST_BATCHES = 12
"""Batches of the measurement at most."""
_PASSED_ON = (
    "max_epochs",
    "max_steps",
    "limit_train_batches",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "deterministic",
    "benchmark",
    "accelerator",
    "precision",
)
"""Arguments of the trainer that decide what an update costs."""


class Length(NamedTuple):
    """The length of a training, for each of its ranks."""

    updates: int
    """Updates that are left."""
    per_epoch: int
    """Updates of an epoch."""
    accumulated: int
    """Batches of an update."""
    epochs: float
    """Epochs that are left."""
    validations: int
    """Validations that are left, at most."""
    attacked: int
    """Validations under attack among them."""


def length_of(
    trainer: pl.Trainer, datamodule: SegmentationDataModule, robustness: RobustnessEvaluation, done: int = 0
) -> Length:
    """Compute how long a training is.

    Args:
        trainer: The trainer of the run.
        datamodule: Its data, opened.
        robustness: Its attacks at validation.
        done: Updates of a continued run.
    """
    settings: Any = trainer
    batches, limit = (
        datamodule.batches(trainer.world_size, trainer.accumulate_grad_batches),
        settings.limit_train_batches,
    )
    used = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
    per_epoch = max(1, math.ceil(used / trainer.accumulate_grad_batches))
    epochs = settings.max_epochs if settings.max_epochs not in (None, -1) else math.inf
    updates = min(epochs * per_epoch, settings.max_steps if settings.max_steps != -1 else math.inf)
    left = max(0, int(updates) - done)
    first, last = done / per_epoch, (done + left) / per_epoch
    every, interval = settings.check_val_every_n_epoch, settings.val_check_interval
    if not settings.limit_val_batches:
        validations = attacked = 0
    elif every is None:  # counted in batches over all epochs
        validations = left * trainer.accumulate_grad_batches // int(interval)
        attacked = validations // robustness.every_n_epochs if robustness.every_n_epochs else 0
    else:
        each = int(1 / interval + 1e-9) if isinstance(interval, float) else max(1, used // interval)
        ended = [epoch for epoch in range(int(first) + 1, int(last) + 1) if epoch % every == 0]
        validations = each * len(ended)
        attacked = each * sum(1 for n in ended if robustness.every_n_epochs and n % robustness.every_n_epochs == 0)
    return Length(left, per_epoch, trainer.accumulate_grad_batches, last - first, validations, attacked)


class Training(NamedTuple):
    """A training as configured."""

    trainer: pl.Trainer
    module: RobustSegmentation
    datamodule: SegmentationDataModule
    robustness: RobustnessEvaluation
    settings: Mapping[str, Any]
    """Configured arguments of its trainer."""
    done: int = 0
    """Updates of a continued run."""


def bill_of_training(of: Training, end: Part, device: torch.device, start: float, seconds: float = 15.0) -> Bill:
    """Measure a few updates and a few steps of each attack, and extend them to the whole run; nothing is written.

    Seconds are those of all images on one device; ranks share them.

    Args:
        of: The training.
        end: The evaluation at its end.
        device: Device to measure on.
        start: Seconds that the start of the command took.
        seconds: Seconds to spend on the measurement, about.

    Raises:
        TrainingError: An update fails.
        AttackError: An attack cannot be run on these images.
    """
    now = clock_of(device)
    began = now()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    length = length_of(of.trainer, of.datamodule, of.robustness, of.done)
    ranks = of.trainer.world_size
    last, _ = items_of(end, device, now, seconds / 3)
    items = _validation_items(of, length, device, now, seconds / 3)
    items += [replace(item, name=f"test: {item.name}") for item in last]
    if length.updates:
        batch, loading = _measure_updates(of, device, now, seconds / 3)
        gradients = 0.0 if of.module.attack is None else float(gradient_steps(of.module.attack.describe()))
        batches = length.updates * length.accumulated * ranks
        early = _may_end_earlier(of.module.attack)
        items = [
            Item("updates", batch * batches, length.updates, gradients, early=early),
            Item("loading images", loading * batches),
            *items,
        ]
    parts = of.datamodule.batches(1, 1)
    return Bill(items, start, parts, device_name(device), peak_memory(device), 0, now() - began)


def attacked_images(module: RobustSegmentation, batch_size: int) -> int:
    """Return the attacked images of a rank's batch."""
    return 0 if module.attack is None else module.split.sizes(batch_size)[1]


def _may_end_earlier(attack: Attack | None) -> bool:
    return attack is not None and (getattr(attack, "keep", "best") == "best" or getattr(attack, "restarts", 1) > 1)


def _validation_items(
    of: Training, length: Length, device: torch.device, now: Callable[[], float], seconds: float
) -> list[Item]:
    if not length.validations:
        return []
    data, robustness = of.datamodule.data, of.robustness
    dataset, size = data.dataset("val"), data.val_batch_size
    places = range(len(dataset))
    sizes = load_sizes(data, "val", [places[first : first + size] for first in range(0, len(dataset), size)], now)
    limit = of.trainer.limit_val_batches
    batches = -(-len(dataset) // size)
    images = min(len(dataset), size * (int(batches * limit) if isinstance(limit, float) else min(batches, limit)))
    model = of.module.model.to(device)
    pixels = model.class_pixels(data.class_pixels)
    attacks = {name: robustness.attacks[name].for_data(pixels) for name in robustness.validate_with}
    scored = Scored(
        model.num_classes,
        of.module.ignore_index,
        of.module.seed,
        rounds=False,
        search=robustness.search_at_validation(of.module, sizes.measured[0].images.to(device)),
    )
    rates = measure_rates(model, attacks if length.attacked else {}, sizes.measured, scored, device, seconds)
    sanity = 0 if of.done else of.trainer.num_sanity_val_steps
    clean = images * length.validations + min(len(dataset), size * (len(dataset) if sanity == -1 else int(sanity)))
    (item,) = attack_items(rates, {CLEAN: clean}, sizes, size)
    found = [replace(item, name="val: clean", seconds=item.seconds + clean * sizes.seconds)]
    if length.attacked:
        attacked = min(images, robustness.num_images or images) * length.attacked
        lacking = dict.fromkeys((CLEAN, *attacks), attacked)
        items = attack_items(rates, lacking, sizes, size)
        scoring = scoring_seconds(rates, lacking, sizes, size)
        found += [replace(item, name=f"val: {item.name}") for item in items if item.name != CLEAN]
        found.append(Item("val: scores", scoring, attacked))
    return found


class _RankZero(SegmentationDataModule):
    """The training batches of rank 0 of a run, without its ranks."""

    def __init__(self, whole: SegmentationDataModule, processes: int, accumulate: int):
        super().__init__(whole.data, whole.overfit_batches)
        self.batch_size = whole.batch_size
        self._processes, self._accumulated = processes, accumulate

    def setup(self, stage: str) -> None:
        pass

    def train_dataloader(self) -> Any:
        return self.data.train_loader(self._processes, 0, self._accumulated, (0, 0), self.overfit_batches)


class _Timer(pl.Callback):
    """A callback that notes the seconds of batches and of waiting for them, and ends a training when it knows them."""

    def __init__(self, now: Callable[[], float], seconds: float, accumulate: int):
        self.batches: list[float] = []
        self.waits: list[float] = []
        self._now, self._seconds, self._accumulate = now, seconds, accumulate
        self._since = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = self._began = self._now()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        now = self._now()
        self.waits.append(now - self._since)
        self._since = now

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = self._now()
        self.batches.append(now - self._since)
        self._since = now
        # the first update holds the start of the device, of workers and of the optimiser's state
        done = len(self.batches) - self._accumulate
        enough = done >= MOST_BATCHES or now - self._began > self._seconds
        if done > 0 and done % self._accumulate == 0 and enough:
            trainer.should_stop = True


def _measure_updates(
    of: Training, device: torch.device, now: Callable[[], float], seconds: float
) -> tuple[float, float]:
    """Train for a few updates; return the seconds of a batch, and of waiting for one."""
    accumulate = of.trainer.accumulate_grad_batches
    timer = _Timer(now, seconds, accumulate)
    configured = of.trainer.callbacks  # type: ignore[attr-defined]
    averages = [each for each in configured if isinstance(each, WeightAveraging)]
    settings = {key: of.settings[key] for key in _PASSED_ON if of.settings.get(key) is not None}
    trainer = pl.Trainer(
        **settings,
        devices=1 if device.index is None else [device.index],
        callbacks=[*averages, timer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        inference_mode=False,
    )
    trainer.fit(of.module, datamodule=_RankZero(of.datamodule, of.trainer.world_size, accumulate))
    few = len(timer.batches) > accumulate
    batches, waits = (each[accumulate:] if few else each for each in (timer.batches, timer.waits))
    return sum(batches) / len(batches), sum(waits) / len(waits)
