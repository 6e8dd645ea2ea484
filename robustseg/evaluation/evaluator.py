"""The evaluator: it scores a model on clean images and under attacks, one confusion matrix per (sample, attack)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from robustseg.attacks import Attack, AttackStep, NoGradientError, Search
from robustseg.attacks.base import OnStep, reads_logits, reads_no_logits
from robustseg.attacks.checks import checked_images
from robustseg.attacks.guard import Model
from robustseg.devices import on_device
from robustseg.evaluation.attack_stage import AttackStage
from robustseg.evaluation.attacking import (
    CLEAN,
    Attacked,
    Outcome,
    attack_batch,
    predict,
    untouched,
)
from robustseg.evaluation.record import COLUMNS, image_figures, rounded
from robustseg.evaluation.records import answers_to, check_names, measured_with, rounded_name
from robustseg.evaluation.sinks import Sink
from robustseg.evaluation.store import ImageRecord
from robustseg.evaluation.targets import TargetKind, check_targets, own_predictions, refuse_ignored_classes
from robustseg.evaluation.views import Look, View, seen_name
from robustseg.metrics import confusion_matrix, pixel_acc
from robustseg.numerics.precision import full_precision
from robustseg.types import IGNORE_INDEX, Batch, checked_ignore_index


class Evaluator:
    """An evaluation loop that attacks batches, predicts, and gives a sink the records that it lacks.

    Everything is computed in the dtype of the images without autocast and TF32, independent of the precision of
    training, with the model in eval mode. Start noise depends on the seeds and the sample id only: figures do not
    depend on the batch size, the order or the number of ranks.

    Args:
        attacks: Attacks by the name they are reported under.
        num_classes: Number of classes C.
        sink: Receiver of the records: :class:`~robustseg.evaluation.MemorySink` or
            :class:`~robustseg.evaluation.DiskSink`.
        ignore_index: Label of pixels that are not counted; None counts all.
        seed: Seed of the attacks' noise.
        scored_on: Names of the models that are scored on the adversarial images; "" is the attacked model.
        views: Views that record further values of the images, by name. If one is added later, the attacks run again
            on all images for it.
        for_itself: Names of attacks whose images only the attacked model, "" in ``scored_on``, is scored on.
        targets: Targets of attacks and scores: the ``labels`` that :meth:`update` gets, or the attacked model's own
            ``predictions`` on the clean images, with which every pixel counts.
        search: Precision that attacks search in; predictions are made without it.
        count_void: Count ignored pixels in confusion matrices, as the last class, which is void.

    Raises:
        ValueError: An attack has a name that scores cannot be reported under, see
            :func:`~robustseg.evaluation.records.check_names`; or with predictions an ignore index is a class.
        EvaluationError: The sink cannot take records of these attacks.
    """

    def __init__(
        self,
        attacks: Mapping[str, Attack],
        num_classes: int,
        sink: Sink,
        ignore_index: int | None = IGNORE_INDEX,
        seed: int = 0,
        *,
        scored_on: Sequence[str] = ("",),
        views: Mapping[str, View] | None = None,
        for_itself: Collection[str] = (),
        targets: TargetKind = "labels",
        search: Search | None = None,
        count_void: bool = False,
    ):
        self.search = search
        self.count_void = count_void
        self.attacks = check_names("attack", attacks)
        self.targets = check_targets(targets)
        if targets == "predictions":
            ignored = [ignore_index, *(each.ignore_index for each in attacks.values())]
            refuse_ignored_classes(ignored, num_classes)
        self.num_classes = num_classes
        self.sink = sink
        self.ignore_index = checked_ignore_index(ignore_index)
        self.seed = seed
        self.scored_on = list(scored_on)
        self.views = dict(views or {})
        self.for_itself = frozenset(for_itself)
        self.refused: dict[str, str] = {}
        """Reasons why attacks could not be run on this model, by the attacks' names."""
        self._unseen = AttackStage(self.attacks)
        sink.open(self.attacks, self.views, num_classes)

    def missing(self, sample: str) -> list[str]:
        """Return the names of the records that are still to be measured on a sample.

        The names are made by :func:`~robustseg.evaluation.records.record_name` and
        :func:`~robustseg.evaluation.views.seen_name`.
        """
        return [
            name
            for attack in (CLEAN, *self.attacks)
            if attack not in self.refused
            for name in (*answers_to(attack, self.scored_on, self.for_itself), *self._views(attack))
            if self.sink.lacks(sample, name)
        ]

    def lacking(self, sample: str) -> list[str]:
        """Return the names of the attacks, "clean" included, that have records to be measured on a sample."""
        return [
            attack
            for attack in (CLEAN, *self.attacks)
            if attack not in self.refused
            and any(
                self.sink.lacks(sample, name)
                for name in (*answers_to(attack, self.scored_on, self.for_itself), *self._views(attack))
            )
        ]

    def _views(self, attack: str) -> dict[str, View]:
        """Return the views of the images of an attack, by the name of the records."""
        return {seen_name(attack, name): view for name, view in self.views.items() if view.wants(attack)}

    def update(
        self,
        model: Model,
        ids: Sequence[str],
        images: Tensor,
        targets: Tensor,
        stage: AttackStage | None = None,
        scored: Mapping[str, Model] | None = None,
    ) -> None:
        """Measure the missing records of a batch.

        If an attack gets no finite gradient, a :class:`~robustseg.evaluation.MemorySink` raises the error. A
        :class:`~robustseg.evaluation.DiskSink` notes it, see :attr:`refused`, and the other attacks continue.

        Args:
            model: The attacked model, from images in [0, 1] to logits at their size; also scored, unless ``scored`` is
                given.
            ids: B sample ids.
            images: B×3×H×W in [0, 1].
            targets: B×H×W class ids; not used if the model's predictions are the targets.
            stage: Display of the attacks and their steps.
            scored: The models of ``scored_on``, by name.

        Raises:
            AttackError: An attack cannot be run on the model or the batch, or the images are not in [0, 1].
            EvaluationError: A record cannot be written.
        """
        images = checked_images(images)
        models = {"": model} if scored is None else scored
        self.sink.begin()
        missing = {sample: set(self.missing(sample)) for sample in ids}
        if self.targets == "predictions" and any(missing.values()):
            targets = own_predictions(model, images)
        watched = [] if stage is None else [stage.step]
        stage = stage or self._unseen
        stage.batch(sum(1 for names in missing.values() if names))
        for attack in (CLEAN, *self.attacks):
            names = answers_to(attack, self.scored_on, self.for_itself)
            views = self._views(attack)
            rows = [row for row, sample in enumerate(ids) if not missing[sample].isdisjoint({*names, *views})]
            if not rows:
                continue
            stage.attack(attack, len(rows))
            part = Batch(_rows(images, rows), _rows(targets, rows), [ids[row] for row in rows])
            wanted = set[str]().union(*(missing[sample] for sample in part.ids))
            with full_precision():
                looks = {name: view.begin(model, part, models) for name, view in views.items() if name in wanted}
                steps = [looks[name].step for name in looks if views[name].watches]
                outcome = self._attack(attack, model, part, _each([*watched, *steps]))
                if outcome is None:
                    stage.refused(attack)
                    continue
                found = [
                    record
                    for name, target in names.items()
                    if name in wanted
                    for record in self._score(name, models[target], part, outcome)
                ]
                for name, look in looks.items():
                    found += self._noted(name, look, part, outcome)
            self.sink.put([record for record in found if measured_with(record.attack) in missing[record.sample]])
        stage.batch_done(sum(1 for names in missing.values() if names))

    def _attack(self, name: str, model: Model, batch: Batch, on_step: OnStep | None) -> Outcome | None:
        """Run an attack; return None if it cannot be run."""
        if name == CLEAN:
            return Outcome(untouched(batch.images), None, 0.0)
        try:
            given = (model, self.attacks[name], batch.ids, batch.images, batch.targets)
            return attack_batch(*given, self.seed, on_step, self.search)
        except NoGradientError as error:
            self.refused[name] = str(error)
            self.sink.refuse(name, error)
            return None

    def _score(self, name: str, model: Model, batch: Batch, outcome: Outcome) -> list[ImageRecord]:
        """Score a model on adversarial images; return a record for each image."""
        images_adv = outcome.result.images_adv
        predictions = predict(model, images_adv, batch.targets, self.ignore_index)
        confusions = self._confusions(predictions, batch.targets)
        own = name == CLEAN or name in self.attacks
        if own:
            self.sink.see(model, name, batch, Attacked(images_adv, predictions), pixel_acc(confusions))
        figures = image_figures(
            outcome.result, batch.images, predictions, batch.targets, outcome.seconds, outcome.wanted, self.ignore_index
        )
        size, trace, device = len(batch.ids), outcome.result.trace, self.sink.device
        # A trace holds the attacked model's losses, so only that model's records have it.
        traces = list(trace.flatten(1).cpu()) if trace is not None and own else [None] * size
        rows = zip(batch.ids, confusions.to(device), figures.to(device), traces, strict=True)
        records = [ImageRecord(id, name, matrix, row, size, each) for id, matrix, row, each in rows]
        if name in self.attacks and self.sink.rounds:
            records += self._rounded(name, model, batch, images_adv, confusions)
        return records

    def _confusions(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return confusion_matrix(predictions, targets, self.num_classes, self.ignore_index, self.count_void)

    def _rounded(
        self, name: str, model: Model, batch: Batch, images_adv: Tensor, confusions: Tensor
    ) -> list[ImageRecord]:
        """Score an attack's images after rounding to 8 bit; images that are 8 bit already keep their confusion."""
        images = rounded(images_adv).to(images_adv.dtype)
        if not torch.equal(images, images_adv):
            predictions = predict(model, images, batch.targets, self.ignore_index)
            confusions = self._confusions(predictions, batch.targets)
        return self._without_figures(rounded_name(name), batch, confusions.to(self.sink.device))

    def _noted(self, name: str, look: Look, batch: Batch, outcome: Outcome) -> list[ImageRecord]:
        """Return the records of a view's values for each image, without scores."""
        nothing = torch.zeros(len(batch.ids), self.num_classes, self.num_classes, dtype=torch.int64)
        return self._without_figures(name, batch, nothing, look.finish(outcome))

    def _without_figures(
        self, name: str, batch: Batch, confusions: Tensor, values: Sequence[Tensor] | None = None
    ) -> list[ImageRecord]:
        size = len(batch.ids)
        figures = torch.full((len(COLUMNS),), math.nan, dtype=torch.float64)
        rows = zip(batch.ids, confusions, [None] * size if values is None else values, strict=True)
        return [ImageRecord(id, name, matrix, figures, size, each) for id, matrix, each in rows]

    def close(self) -> None:
        """Close the sink."""
        self.sink.close()


def _rows(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Return some images' part of a batch, or ``values`` if these are all."""
    return values if len(rows) == len(values) else values[on_device(torch.tensor(rows), values.device)]


def _each(observers: Sequence[OnStep]) -> OnStep | None:
    """Combine several observers into one; return None if there are none."""
    if len(observers) < 2:
        return observers[0] if observers else None

    def show(step: AttackStep) -> None:
        for one in observers:
            one(step)

    return show if any(map(reads_logits, observers)) else reads_no_logits(show)
