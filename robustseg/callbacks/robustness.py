"""The callback that scores a model under attacks at validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from robustseg.attacks import PGD, Attack, AttackError, Search
from robustseg.attacks.guard import Model
from robustseg.callbacks.pictures import log_panel
from robustseg.data import SegmentationData
from robustseg.data.lightning import data_of
from robustseg.detectors import Detector
from robustseg.evaluation import CLEAN, Attacked, Evaluator, Example, MemorySink
from robustseg.evaluation.attack_stage import AttackStage
from robustseg.evaluation.figures import LOGGED
from robustseg.evaluation.records import check_names
from robustseg.evaluation.searched import MeasuredSearch
from robustseg.evaluation.targets import check_targets
from robustseg.terminal import shown
from robustseg.terminal.text import write
from robustseg.training import RobustSegmentation
from robustseg.types import Batch


class RobustnessEvaluation(pl.Callback):
    """A callback that scores the model under attacks on validation batches.

    It logs ``val/<attack>/miou`` (and the other :data:`~robustseg.evaluation.figures.LOGGED`), and the clean scores of
    the same images as ``val/clean/miou``, which ModelCheckpoint can monitor. Figures are exact over the data set: no
    autocast, one confusion matrix, every image once. :mod:`robustseg.evaluation.benchmark` runs all attacks on all test
    images; its settings ``suite``, ``test_num_images``, ``targets`` and the detectors are kept here as well.

    Args:
        attacks: Attacks by the name they are reported under.
        validate_with: Names of the attacks to run at validation; all by default, none if empty.
        every_n_epochs: Run at the validation of every N-th epoch (epochs N, 2N, …); 0 for never.
        num_images: Number of images to use at validation, the first of the split; all by default.
        test_num_images: Number of images, evenly spread over the split, for the benchmark at the end of training and in
            ``robustseg evaluate``; all by default.
        num_examples: Number of rows of each attack's pictures in the loggers; 0 for none.
        suite: Name of the attacks as a whole, for the record.
        detectors: Detectors to put in front of the model in the benchmark, by the name they are reported under.
        false_positive_rate: Largest share of benign images that a detector's threshold may reject, in [0, 1).
        threshold_images: Number of benign images that thresholds are fitted on, evenly spread over the training split;
            null for all of it.
        targets: Targets of attacks and scores in the benchmark: the ``labels`` of the data, or the model's own
            ``predictions`` on the clean images, for data without labels. Validation always uses labels: a checkpoint
            that is chosen by what is left of its own answer would be the one that always says the same.
        search: Precision that the attacks of the benchmark search in, with a measurement of what it costs; null for
            float32 throughout.
        validation_search: Precision that attacks search in at validation; null for float32. Where the device or the
            model cannot do it, they search in float32. Scores are float32 in any case.
        count_void: Count the pixels that the data ignores in the figures of the benchmark, as those of the model's
            ``void_class``: predicted as another class, they are that class's false positives, as in the figures of
            SegNet, ENet and ESPNet for CamVid. Means are over the other classes in any case.

    Raises:
        ValueError: A number is out of range, ``validate_with`` names an unknown attack, an attack or a detector has a
            name that scores cannot be reported under, or ``targets`` is neither of the two.
    """

    def __init__(
        self,
        attacks: dict[str, Attack] | None = None,
        validate_with: list[str] | None = None,
        every_n_epochs: int = 1,
        num_images: int | None = None,
        test_num_images: int | None = None,
        num_examples: int = 4,
        suite: str | None = None,
        detectors: dict[str, Detector] | None = None,
        false_positive_rate: float = 0.05,
        threshold_images: int | None = 100,
        # A list as well, since the refusal of both says more than that of a type.
        targets: str | list[str] = "labels",
        search: MeasuredSearch | None = None,
        validation_search: Search | None = Search(),  # noqa: B008 (it is frozen)
        count_void: bool = False,
    ):
        self.attacks = check_names("attack", attacks or {})
        unknown = [name for name in validate_with or [] if name not in self.attacks]
        if unknown:
            known = ", ".join(self.attacks) or "none"
            raise ValueError(f"validate_with names {', '.join(unknown)}, but robustness.attacks has: {known}.")
        if num_examples < 0:
            raise ValueError(f"num_examples = {num_examples} is negative: use 0 for no pictures.")
        if every_n_epochs < 0:
            raise ValueError(f"every_n_epochs = {every_n_epochs} is negative: use 0 to leave validation clean.")
        counts = {"num_images": num_images, "test_num_images": test_num_images, "threshold_images": threshold_images}
        for name, number in counts.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} = {number}: use at least one image, or null for all.")
        self.validate_with = list(self.attacks) if validate_with is None else validate_with
        self.every_n_epochs = every_n_epochs
        self.num_images = num_images
        self.test_num_images = test_num_images
        self.num_examples = num_examples
        self.suite = suite
        if not 0 <= false_positive_rate < 1:
            raise ValueError(
                f"false_positive_rate = {false_positive_rate}: use a share of benign images in [0, 1), such as 0.05."
            )
        self.detectors = check_names("detector", detectors or {})
        self.false_positive_rate = false_positive_rate
        self.threshold_images = threshold_images
        self.targets = check_targets(targets)
        self.search = search
        self.validation_search = validation_search
        self.count_void = count_void
        self._evaluator: Evaluator | None = None
        self._sink = MemorySink()
        self._stage: AttackStage | None = None
        self._images_left = 0
        self._said = False
        self._examples: dict[str, list[Example]] = {}

    @property
    def logged(self) -> set[str]:
        """Names of the figures that validation logs."""
        names = [CLEAN, *self.validate_with] if self.validate_with and self.every_n_epochs else []
        return {f"val/{name}/{figure}" for name in names for figure in LOGGED.values()}

    def why_absent(self, figure: str) -> str:
        """Return the remedy for a figure of an attack that does not run at validation; empty for any other figure."""
        stage, _, rest = figure.partition("/")
        attack = rest.rpartition("/")[0]
        if stage != "val" or attack not in self.attacks or figure in self.logged:
            return ""
        if not self.every_n_epochs:
            return "validations are without attacks: set robustness.every_n_epochs to 1 or more."
        if attack not in self.validate_with:
            return f"{attack} does not run at validation: put {attack} into robustness.validate_with."
        return ""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start an evaluation if it is due in this epoch."""
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
        if self._evaluator is None:
            return
        for name, row in self._sink.compute().items():
            for key, figure in LOGGED.items():
                if key in row:
                    pl_module.log(f"val/{name}/{figure}", row[key].float())
        self._end()
        for name, examples in self._examples.items():
            log_panel(trainer, f"val/{name}", examples)
        self._evaluator, self._sink, self._examples = None, MemorySink(), {}

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End the display."""
        self._end()

    def _end(self) -> None:
        if self._stage is not None:
            shown().end(self._stage)
        self._stage = None

    def _start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        attacks: Mapping[str, Attack],
        num_images: int | None,
    ) -> None:
        module = _as_robust(pl_module)
        data = data_of(trainer)
        if isinstance(data, SegmentationData):
            pixels = module.model.class_pixels(data.class_pixels)
            attacks = {name: attack.for_data(pixels) for name, attack in attacks.items()}
        self._sink = MemorySink(module.device, module.model.num_scored)
        given = (attacks, module.model.num_classes, self._sink, module.ignore_index, module.seed)
        self._evaluator = Evaluator(*given)
        self._examples = {name: [] for name in attacks}
        if num_images is None:
            num_images = 2**62
        # An unpadded distributed sampler gives rank r the images r, r + world, …: count its share of the first ones.
        self._images_left = len(range(trainer.global_rank, num_images, trainer.world_size))
        here = min(self._images_left, _images_of(data, trainer))
        self._stage = AttackStage(attacks)
        self._stage.plan([[CLEAN, *attacks]] * here)
        shown().begin(self._stage)

    def search_at_validation(self, module: RobustSegmentation, images: Tensor, speaks: bool = False) -> Search | None:
        """Return the precision that attacks search in at validation; None for float32.

        Args:
            module: The module.
            images: B×3×H×W in [0, 1] on the module's device, the first of which is searched for a step.
            speaks: Say once that the device or the model cannot do it.
        """
        search = self.validation_search
        if search is None:
            return None
        dtype = next(module.model.parameters(), module.model.mean).dtype
        reason = search.why_not(images.device, dtype) or _refusal(module.model, images[:1], search)
        if reason and speaks and not self._said:
            write(f"validation searches in float32 instead of {search.precision}: {reason.removesuffix('.')}.")
            self._said = True
        return None if reason else search

    def _update(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch) -> None:
        if self._evaluator is None or not self._images_left:
            return
        take = min(self._images_left, len(batch.images))
        self._images_left -= take
        images, targets, ids = batch.images[:take], batch.targets[:take], batch.ids[:take]
        module = _as_robust(pl_module)
        if not self._sink.seen:
            self._evaluator.search = self.search_at_validation(module, images, trainer.is_global_zero)
        self._evaluator.update(module.model, ids, images, targets, self._stage if shown().visible else None)
        if trainer.is_global_zero:
            self._keep_examples(self._sink.seen, ids, images, targets)

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


def _refusal(model: Model, images: Tensor, search: Search) -> str:
    """Return what a model raises in a step of a search; empty if nothing."""
    try:
        PGD(steps=1, ignore_index=None)(
            model, images, images.new_zeros(len(images), *images.shape[-2:]).long(), search=search
        )
    except AttackError as error:
        return str(error)
    return ""


def _images_of(data: object, trainer: pl.Trainer) -> int:
    """Return the validation images of this rank."""
    if not isinstance(data, SegmentationData):
        return 0
    return len(range(trainer.global_rank, len(data.dataset("val")), trainer.world_size))


def _as_robust(pl_module: pl.LightningModule) -> RobustSegmentation:
    if not isinstance(pl_module, RobustSegmentation):
        raise TypeError(f"RobustnessEvaluation needs a RobustSegmentation module, not {type(pl_module).__name__}.")
    return pl_module
