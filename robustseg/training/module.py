"""The LightningModule: standard and adversarial training of one segmentation model."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from robustseg.attacks import Attack, AttackError, AttackMode, NoiseSource, NonFiniteError, Search
from robustseg.data import run_seed
from robustseg.data.lightning import data_of
from robustseg.evaluation.figures import LOGGED
from robustseg.metrics import SegmentationScores
from robustseg.models import RECORD_KEY, Compile, Network, SegmentationModel, SlidingWindow, load_segmentation_weights
from robustseg.models.unused import freeze_unused
from robustseg.training.class_weights import ClassWeights, check_class_weights, class_weights
from robustseg.training.monitored import check_monitors
from robustseg.training.non_finite import NonFiniteLoss, NonFinitePolicy, refuse_non_finite
from robustseg.training.objective import LossCombination, count_valid, update_loss
from robustseg.training.optimizer import build_optimizer
from robustseg.training.ranks import share_buffers
from robustseg.training.record import checkpoint_record, validation_record
from robustseg.training.schedule import ScheduleName, scheduler_of
from robustseg.training.seeding import seed_step
from robustseg.training.sharding import gather, is_sharded, spread
from robustseg.training.split import AdversarialSplit, MixedBatch, TrainingError, refuse_windows
from robustseg.types import IGNORE_INDEX, Batch, checked_ignore_index


def papers_sgd(params: Any) -> Optimizer:
    """Build SGD with the settings of the papers' code: learning rate 0.01, momentum 0.9, weight decay 1e-4."""
    return SGD(params, lr=0.01, momentum=0.9, weight_decay=1e-4)


class RobustSegmentation(pl.LightningModule):
    """A segmentation model in training, on clean batches or with an attacker in the loop.

    Without an attack this is standard training. With one, each rank's batch is split, the last part is replaced by
    adversarial examples of the current weights, and one forward of both parts gives the loss of the update. The
    attack sees the main head's logits only; the auxiliary head takes part in the update.

    Batch sizes, and with them the split, are per rank. Losses are means over the valid pixels of all ranks.

    Args:
        network: The raw network; its class count comes from the data when configured on the command line.
        attack: The attacker, or None for standard training.
        adversarial_fraction: Share of each batch to attack, from 0 to 1.
        attack_mode: Mode of the model during the attack: ``"eval"``, or ``"train"`` for batch statistics and
            dropout; BatchNorm's running statistics are restored afterwards.
        loss_combination: ``"sum_of_means"`` of the clean and the adversarial part (the papers' Algorithm 2) or one
            ``"mean"`` over all pixels.
        class_weights: Weights of the classes in the loss of the update, not in that of the attack: C numbers, or a rule
            over the training split, see :func:`~robustseg.training.class_weights.class_weights`; null for none.
        aux_weight: Weight of the auxiliary head's loss, 0.4 in PSPNet.
        optimizer: Function that takes the parameter groups and returns an optimiser.
        schedule: ``"poly"``, ``"cosine"`` or ``"constant"``, per optimiser step.
        warmup_steps: Linear warm-up in optimiser steps.
        head_lr_factor: Learning rate of everything but the backbone, relative to the optimiser's.
        mean: Mean of the images per channel, in units of [0, 1], for their normalisation; by default the network's own.
        std: Standard deviation of the images per channel, in units of [0, 1]; by default the network's own.
        window: Validation and test send images larger than this through the network in overlapping windows, see
            :class:`~robustseg.models.SlidingWindow`. Training crops must not be larger; null for whole images.
        init_weights: Checkpoint of a whole model to start from (its weights only), for example a standard model or
            another project's checkpoint, see :func:`~robustseg.models.load_segmentation_weights`.
        init_without: Modules of the network that do not start from ``init_weights``, such as a classifier for another
            number of classes.
        ignore_index: Label of pixels that do not count; null counts all.
        on_non_finite_loss: ``"stop"`` training at a batch with a loss that is not finite on some rank, or ``"skip"``
            it, see :class:`~robustseg.training.non_finite.NonFiniteLoss`; ``train/skipped`` counts the skipped batches.
        compile: Run the network in attacks, updates and validation as compiled by torch.compile: true for the default
            settings, or :class:`~robustseg.models.Compile`'s; on GPUs it may be faster.
        channels_last: Keep weights and images in memory with the channels last; on GPUs it is mostly faster.
        attack_search: Precision that the attacker searches in, whatever the trainer's is; two forwards in float32 judge
            its results. Null for the trainer's.
        drop_classes: Outputs of the network that the data has no class for and that the model leaves out; the others
            are the data's classes, in order. The network gets so many outputs more.
        void_class: Output of the network for void, which the data ignores. It can be predicted, which is wrong where
            pixels count, and figures are means over the other classes.

    Raises:
        ValueError: A value is out of its range.
    """

    def __init__(
        self,
        network: Network,
        attack: Attack | None = None,
        adversarial_fraction: float = 0.5,
        attack_mode: AttackMode = "eval",
        loss_combination: LossCombination = "sum_of_means",
        aux_weight: float = 0.4,
        optimizer: OptimizerCallable = papers_sgd,
        schedule: ScheduleName = "poly",
        warmup_steps: int = 0,
        head_lr_factor: float = 1.0,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        window: SlidingWindow | None = None,
        init_weights: str | None = None,
        init_without: list[str] | None = None,
        ignore_index: int | None = IGNORE_INDEX,
        on_non_finite_loss: NonFinitePolicy = "stop",
        class_weights: ClassWeights | list[float] | None = None,
        compile: Compile | bool = False,
        channels_last: bool = False,
        attack_search: Search | None = None,
        drop_classes: list[int] | None = None,
        void_class: int | None = None,
    ):
        super().__init__()
        if not 0 <= aux_weight < math.inf:
            raise ValueError(f"aux_weight = {aux_weight}: use 0 to leave the auxiliary head out, or more.")
        if not 0 < head_lr_factor < math.inf:
            raise ValueError(f"head_lr_factor = {head_lr_factor} must be positive.")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps = {warmup_steps} is negative.")
        self.model = SegmentationModel(
            network, mean, std, window, compile, channels_last, drop_classes or (), void_class
        )
        # Plain attributes: nothing of the attacker is in the state_dict, so a run can resume with another one.
        self.attack = attack
        self.split = AdversarialSplit(adversarial_fraction, attack_mode, attack_search)
        self.loss_combination: LossCombination = loss_combination
        check_class_weights(class_weights, self.model.num_classes)
        self.class_weights: ClassWeights | list[float] | None = class_weights
        self._weights: Tensor | None = None
        self.aux_weight = aux_weight
        self.make_optimizer = optimizer
        self.schedule: ScheduleName = schedule
        self.warmup_steps = warmup_steps
        self.head_lr_factor = head_lr_factor
        self.ignore_index = checked_ignore_index(ignore_index)
        self.non_finite = NonFiniteLoss(on_non_finite_loss)
        self.scores = SegmentationScores(self.model.num_classes, ignore_index, self.model.num_scored)
        self._validation: dict[str, Any] | None = None
        self._unused: frozenset[nn.Parameter] = frozenset()
        if init_weights is not None:
            load_segmentation_weights(self.model, init_weights, init_without or ())

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits B×C×H×W of images B×3×H×W in [0, 1]."""
        logits: Tensor = self.model(images)
        return logits

    @property
    def seed(self) -> int:
        """Seed of the run, as set by ``seed_everything``; attack noise is a function of it."""
        return run_seed()

    def setup(self, stage: str) -> None:
        """Freeze what an update does not depend on, such as an auxiliary head without weight, for several ranks.

        DistributedDataParallel, which is built after this, waits for the gradient of each parameter that needs one.
        """
        if stage == "fit" and self.trainer.world_size > 1:
            self._unused = freeze_unused(self.model.network, (), self.aux_weight > 0, values=True)

    def on_fit_start(self) -> None:
        """Refuse a batch that cannot be split before the first step, not at it, and figures that cannot be monitored.

        Raises:
            TrainingError: A batch of one image cannot be split, a callback monitors a figure that is not there or
                has another direction, or the attacker cannot search in the precision that it is to.
        """
        if self.attack is not None:
            self.split.refuse_search(self.device, self.model.mean.dtype)
        self.check_batch_size(*self._batch_sizes())
        check_monitors(self.trainer, self, self.logged(*self._batch_sizes()))
        self._weights = class_weights(
            self.class_weights, data_of(self.trainer), self.device, self.model.void_class is not None
        )

    def on_train_start(self) -> None:
        """Look at schedulers that monitor a figure, which are built by now.

        Raises:
            TrainingError: A figure is not there or has another direction.
        """
        check_monitors(self.trainer, self, self.logged(*self._batch_sizes()))

    def _batch_sizes(self) -> tuple[int | None, int | None]:
        data = getattr(self.trainer, "datamodule", None)
        return getattr(data, "batch_size", None), getattr(data, "global_batch_size", None)

    def check_batch_size(self, batch_size: int | None, global_batch_size: int | None = None) -> None:
        """Refuse a number of images per rank that cannot be split into clean and adversarial ones.

        Args:
            batch_size: Number of images in a rank's batch; None if unknown.
            global_batch_size: ``data.global_batch_size``, if set; ``batch_size`` is a rank's share of it.

        Raises:
            TrainingError: A batch of one image cannot be split.
        """
        if self.attack is not None and batch_size is not None:
            self.split.sizes(batch_size, global_batch_size)

    def logged(self, batch_size: int | None, global_batch_size: int | None = None) -> set[str]:
        """Name the figures that training and validation log; callbacks can monitor these.

        A subclass that logs others adds their names.

        Args:
            batch_size: Number of images in a rank's batch; None if unknown.
            global_batch_size: As of :meth:`check_batch_size`.
        """
        size = 2 if batch_size is None else batch_size
        sizes = (size, 0) if self.attack is None else self.split.sizes(size, global_batch_size)
        parts = zip(("train/loss_clean", "train/loss_adv"), sizes, strict=True)
        training = {"train/loss", *(name for name, size in parts if size)}
        skipped = {"train/skipped"} if self.non_finite.policy == "skip" else set()
        return training | skipped | {f"val/{figure}" for figure in LOGGED.values()}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the step, and drop the newest validation's scores, which the update makes obsolete."""
        seed_step(self.seed, "train", self.global_step, batch_idx, self.global_rank)
        if is_sharded(self.model):
            share_buffers(self.model)  # as DistributedDataParallel does
            gather(self.model)
        self._validation = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of one update.

        Args:
            batch: Images B×3×H×W in [0, 1], targets B×H×W and ids.
            batch_idx: Number of the batch in the epoch.

        Returns:
            A scalar; the mean over the ranks is the loss of the whole batch.

        Raises:
            TrainingError: The loss is not finite, which is found before it reaches the weights, or the batch cannot be
                split or attacked.
        """
        mixed, failed = self._mix_or_not(batch)
        spread(self.model, at_once=False)
        valid = count_valid(mixed.targets, mixed.clean, self.ignore_index, self._weights)
        self.non_finite.remember(self.model)
        # without a weight the auxiliary head does not run
        forward = self.model.forward_with_aux if self.aux_weight else lambda images: (self.model(images), None)
        logits, aux_logits = forward(mixed.images)
        arguments = (mixed.targets, mixed.clean, valid, self.loss_combination, self.ignore_index, self._weights)
        loss = update_loss(logits, *arguments)
        total = loss.total
        if aux_logits is not None:
            total = total + self.aux_weight * update_loss(aux_logits, *arguments).total
        where = f"step {self.global_step} for the samples {', '.join(mixed.ids)} (on rank {self.global_rank})"
        left_out = self.non_finite.leaves_out(total.detach(), failed, where)
        if self.non_finite.policy == "skip":
            self.log("train/skipped", float(self.non_finite.skipped), rank_zero_only=True)
        if left_out:
            return self.non_finite.no_loss(self.model)
        size = len(mixed.images)
        # A rank's loss is its share of the whole batch's loss times the number of ranks: the mean over ranks is the
        # batch's.
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=size, sync_dist=True)
        if mixed.clean < size:
            self.log("train/loss_adv", loss.adversarial, prog_bar=True, batch_size=size, sync_dist=True)
        if mixed.clean:
            self.log("train/loss_clean", loss.clean, batch_size=size, sync_dist=True)
        return total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leave out an update if all its batches were left out."""
        self.non_finite.before_update(optimizer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add a record about these weights to the checkpoint.

        Raises:
            TrainingError: The weights are not finite, so that they do not replace a good checkpoint.
        """
        refuse_non_finite(self.model, self.global_step)
        attack = self.attack if self.split.fraction else None
        checkpoint[RECORD_KEY] = checkpoint_record(self._validation, attack, checkpoint, self.model.network)

    def _mix_or_not(self, batch: Batch) -> tuple[MixedBatch, str]:
        """Return the batch to train on, and the reason if it cannot be: all ranks have to agree to leave it out."""
        try:
            return self._mix(batch), ""
        except TrainingError as error:
            if self.non_finite.policy == "stop" or not isinstance(error.__cause__, NonFiniteError):
                raise
            return MixedBatch(*batch, self.split.sizes(len(batch.images))[0]), str(error)

    def _mix(self, batch: Batch) -> MixedBatch:
        refuse_windows(self.model.window, *batch.images.shape[-2:])
        if self.attack is None:
            return MixedBatch(*batch, len(batch.images))
        clean, _ = self.split.sizes(len(batch.images))
        # The seeds are a function of the sample and the step: the same on any rank and in any batch. Accumulated
        # micro-batches share a global step but not their samples.
        seeds = (self.seed, self.attack.seed)
        noise = NoiseSource.for_samples(seeds, batch.ids[clean:], self.device, step=self.global_step)
        try:
            return self.split(self.model, self.attack, batch, noise)
        except AttackError as error:
            raise TrainingError(f"step {self.global_step}, samples {', '.join(batch.ids[clean:])}: {error}") from error

    def on_validation_epoch_start(self) -> None:
        """Share rank 0's buffers, so that every rank validates the state that a checkpoint will hold."""
        share_buffers(self.model)
        gather(self.model)

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Seed the random numbers of the batch."""
        seed_step(self.seed, "validation", self.global_step, batch_idx, self.global_rank)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Add a batch to the clean scores, and return the predictions, B×H×W."""
        return self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the data set's clean scores, and keep them for the checkpoint's record."""
        share_buffers(self.model)  # again: after a validation of averaged weights the trained ones are back
        spread(self.model)
        scores = self._log_scores("val")
        fixed = getattr(getattr(self.trainer, "datamodule", None), "overfit_batches", 0)
        # fixed samples are of the training split, and no figures of the validation split
        if not self.trainer.sanity_checking and not fixed:
            self._validation = validation_record(scores, self.model, data_of(self.trainer), str(self.trainer.precision))

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Add a batch to the clean scores, and return the predictions, B×H×W."""
        return self._score(batch)

    def on_test_epoch_end(self) -> None:
        """Log the data set's clean scores."""
        self._log_scores("test")

    def _score(self, batch: Batch) -> Tensor:
        predictions: Tensor = self.model(batch.images).argmax(1)
        self.scores.update(predictions, batch.targets)
        return predictions

    def _log_scores(self, stage: str) -> dict[str, Tensor]:
        scores: dict[str, Tensor] = self.scores.compute()
        self.scores.reset()
        for key, name in LOGGED.items():
            self.log(f"{stage}/{name}", scores[key].float(), prog_bar=key == "miou", rank_zero_only=False)
        return scores

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimiser with the heads' own learning rate, and the schedule over the run's optimiser steps.

        Raises:
            TrainingError: The optimiser refuses its settings, the run has no end for the schedule, or ends within its
                warm-up.
        """
        # what was frozen for several ranks stays in its place, as in the state of an optimiser on one
        parameters = [p for p in self.model.parameters() if p.requires_grad or p in self._unused]
        optimizer = build_optimizer(self.model.network, parameters, self.make_optimizer, self.head_lr_factor)
        scheduler = scheduler_of(optimizer, self.schedule, self.trainer, self.warmup_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
