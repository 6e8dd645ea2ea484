"""An evaluation that may be killed at any moment, shared by processes and continued."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks import Attack, AttackStep, NoGradientError
from robustseg.attacks.base import OnStep
from robustseg.attacks.guard import Model
from robustseg.evaluation.errors import EvaluationError
from robustseg.evaluation.evaluator import (
    CLEAN,
    OnAttackStep,
    Outcome,
    attack_batch,
    full_precision,
    named_step,
    predict,
    untouched,
)
from robustseg.evaluation.panels import Example
from robustseg.evaluation.pictures import PictureKeeper
from robustseg.evaluation.protocol import claim
from robustseg.evaluation.record import COLUMNS, image_figures
from robustseg.evaluation.records import answers_to, refusal_path, refuse_others, unique_records
from robustseg.evaluation.results import write_json
from robustseg.evaluation.store import ImageRecord, RecordWriter, streams
from robustseg.evaluation.views import Look, View, refuse_names_of_views, seen_name, view_settings
from robustseg.metrics import confusion_matrix, pixel_acc
from robustseg.types import IGNORE_INDEX, Batch


class ResumableEvaluator:
    """Measures what is missing in an evaluation's folder: one confusion matrix per (sample, attack).

    Figures are those of :class:`~robustseg.evaluation.RobustnessEvaluator`. Several processes may work in one folder
    at the same time, each on other samples; what each of them measured is on disk when :meth:`update` returns. A later
    attack is measured on all samples, and nothing else again.

    Args:
        folder: Of the evaluation; created if it is not there.
        facts: What every figure depends on but the attacks: hash of the checkpoint and of the data, seed … See
            :func:`~robustseg.evaluation.protocol.claim`.
        attacks: Attacks by the name they are reported under.
        num_classes: C.
        ignore_index: Label of pixels that are not counted.
        seed: Seed of the attacks' noise.
        writer: Name of this process among those that share the folder.
        about: Further facts that may differ from process to process, such as versions; they are kept with the records.
        num_pictures: How many of the worst images under each attack to keep for the report, and of the best.
        scored_on: Names of the models that the adversarial images are shown to, where that is not the attacked one.
        views: By name, what else looks at the images; a view that is added later is asked about all of them, for which
            the attacks run again.
        for_itself: Names of attacks whose images only the attacked model is shown, of those of ``scored_on``.

    Raises:
        EvaluationError: The folder holds an evaluation of something else, or an attack of the same name with other
            settings, or records that contradict one another.
        ValueError: An attack is called "clean".
    """

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        attacks: Mapping[str, Attack],
        num_classes: int,
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
        writer: str = "records",
        about: Mapping[str, Any] | None = None,
        num_pictures: int = 3,
        scored_on: Sequence[str] = ("",),
        views: Mapping[str, View] | None = None,
        for_itself: Collection[str] = (),
    ):
        if CLEAN in attacks:
            raise ValueError(f"an attack cannot be called {CLEAN!r}: that is the name of the scores without attack.")
        refuse_names_of_views(attacks)
        self.folder = folder
        self.attacks = dict(attacks)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.seed = seed
        self.scored_on = list(scored_on)
        self.for_itself = frozenset(for_itself)
        self.views = dict(views or {})
        settings = {name: attack.describe() for name, attack in self.attacks.items()} | view_settings(self.views)
        protocol = claim(folder, facts)
        found = streams(folder)
        refuse_others(found, protocol, settings)
        self.pictures = PictureKeeper(folder, num_pictures)
        self._done: set[tuple[str, str]] = set()
        # Predictions on the clean images of the batch at hand, for its pictures.
        self._clean: dict[str, Tensor] = {}
        for record in unique_records(found):
            self._done.add((record.sample, record.attack))
            if record.attack in self.attacks:
                self.pictures.remember(record.attack, record.sample, float(pixel_acc(record.confusion)))
        self._writer = RecordWriter(
            folder, writer, {"protocol": protocol, "attacks": settings, **(about or {})}, num_classes
        )
        self.refused: dict[str, str] = {}
        """Why an attack could not be run on this model, by its name."""

    def missing(self, sample: str) -> list[str]:
        """Names of the records that are still to be measured on a sample.

        They are those of :func:`~robustseg.evaluation.records.record_name` and of
        :func:`~robustseg.evaluation.views.seen_name`.
        """
        return [name for attack in (CLEAN, *self.attacks) for name in self._missing(sample, attack)]

    def _missing(self, sample: str, attack: str) -> list[str]:
        if attack in self.refused:
            return []
        names = answers_to(attack, self.scored_on, self.for_itself)
        return [name for name in (*names, *self._views(attack)) if (sample, name) not in self._done]

    def _views(self, attack: str) -> dict[str, View]:
        """What looks at the images of an attack, by the name of the records."""
        return {seen_name(attack, name): view for name, view in self.views.items() if view.wants(attack)}

    def update(
        self,
        model: Model,
        ids: Sequence[str],
        images: Tensor,
        targets: Tensor,
        on_step: OnAttackStep | None = None,
        scored: Mapping[str, Model] | None = None,
    ) -> None:
        """Measure what is missing of a batch.

        An attack that gets no gradient, or none that is finite, is given up, see :attr:`refused`; the others go on.

        Args:
            model: Maps images in [0, 1] to logits at their size; it is attacked, and scored unless others are.
            ids: B sample ids.
            images: B×3×H×W in [0, 1].
            targets: B×H×W.
            on_step: Called with the attack's name after each of its gradients.
            scored: The models of ``scored_on``, by name.

        Raises:
            AttackError: As the attack.
            EvaluationError: A record cannot be written.
        """
        models = {"": model} if scored is None else scored
        self._clean = {}
        missing = {sample: set(self.missing(sample)) for sample in ids}
        for attack in (CLEAN, *self.attacks):
            names = answers_to(attack, self.scored_on, self.for_itself)
            views = self._views(attack)
            rows = [row for row, sample in enumerate(ids) if not missing[sample].isdisjoint({*names, *views})]
            if not rows:
                continue
            part = Batch(images[rows], targets[rows], [ids[row] for row in rows])
            wanted = set[str]().union(*(missing[sample] for sample in part.ids))
            with full_precision():
                looks = {name: view.begin(model, part, models) for name, view in views.items() if name in wanted}
                steps = [looks[name].step for name in looks if views[name].watches]
                outcome = self._attack(attack, model, part, _each(named_step(on_step, attack), steps))
                if outcome is None:
                    continue
                found = [
                    record
                    for name, target in names.items()
                    if name in wanted
                    for record in self._score(name, models[target], part, outcome, missing)
                ]
                for name, look in looks.items():
                    found += self._noted(name, look, part, outcome, missing)
            # As one: a process that is killed leaves all of it or nothing.
            self._writer.append(found)
            self._done |= {(record.sample, record.attack) for record in found}

    def _attack(self, name: str, model: Model, batch: Batch, on_step: OnStep | None) -> Outcome | None:
        """The adversarial images, or None where the attack cannot be run."""
        if name == CLEAN:
            return Outcome(untouched(batch.images), None, 0.0)
        try:
            return attack_batch(model, self.attacks[name], batch.ids, batch.images, batch.targets, self.seed, on_step)
        except NoGradientError as error:
            self.refused[name] = str(error)
            try:
                write_json({"attack": name, "reason": str(error)}, refusal_path(self.folder, name))
            except OSError as failure:
                raise EvaluationError(_no_room(self.folder, "that an attack was refused", failure)) from failure
            return None

    def _score(
        self, name: str, model: Model, batch: Batch, outcome: Outcome, missing: Mapping[str, set[str]]
    ) -> list[ImageRecord]:
        """What a model makes of adversarial images: the records that are missing."""
        predictions = predict(model, outcome.result.images_adv, batch.targets, self.ignore_index)
        confusions = confusion_matrix(predictions, batch.targets, self.num_classes, self.ignore_index)
        if name == CLEAN:
            self._clean = dict(zip(batch.ids, predictions, strict=True))
        if name in self.attacks:
            self._keep_pictures(name, model, batch, outcome.result.images_adv, predictions, pixel_acc(confusions))
        figures = image_figures(
            outcome.result, batch.images, predictions, batch.targets, outcome.seconds, outcome.wanted, self.ignore_index
        )
        size, trace = len(batch.ids), outcome.result.trace
        # A trace is of the attacked model's answers, also where others are scored.
        traces = [None] * size if trace is None or name not in self.attacks else list(trace.flatten(1).cpu())
        rows = zip(batch.ids, confusions.cpu(), figures.cpu(), traces, strict=True)
        return [ImageRecord(id, name, matrix, row, size, each) for id, matrix, row, each in rows if name in missing[id]]

    def _noted(
        self, name: str, look: Look, batch: Batch, outcome: Outcome, missing: Mapping[str, set[str]]
    ) -> list[ImageRecord]:
        """What a view notes of adversarial images: the records that are missing, without scores."""
        nothing = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)
        figures = torch.full((len(COLUMNS),), math.nan, dtype=torch.float64)
        return [
            ImageRecord(id, name, nothing, figures, len(batch.ids), values)
            for id, values in zip(batch.ids, look.finish(outcome), strict=True)
            if name in missing[id]
        ]

    def close(self) -> None:
        """Close the file of records."""
        self._writer.close()

    def _keep_pictures(
        self, name: str, model: Model, batch: Batch, images_adv: Tensor, predictions: Tensor, pixel_accs: Tensor
    ) -> None:
        rows = self.pictures.wanted(name, batch.ids, pixel_accs)
        if not rows:
            return
        unknown = [row for row in rows if batch.ids[row] not in self._clean]
        if unknown:
            fresh = predict(model, batch.images[unknown], batch.targets[unknown], self.ignore_index)
            self._clean |= zip([batch.ids[row] for row in unknown], fresh, strict=True)
        for row in rows:
            clean = self._clean[batch.ids[row]]
            tensors = (batch.images[row], images_adv[row], batch.targets[row], clean, predictions[row])
            example = Example(batch.ids[row], *(tensor.detach().cpu() for tensor in tensors))
            try:
                self.pictures.keep(name, example, float(pixel_accs[row]))
            except OSError as error:
                raise EvaluationError(_no_room(self.folder, "a picture", error)) from error


def _each(first: OnStep | None, more: Sequence[OnStep]) -> OnStep | None:
    """One observer for several."""
    every = [*([] if first is None else [first]), *more]
    if not every:
        return None

    def show(step: AttackStep) -> None:
        for one in every:
            one(step)

    return show


def _no_room(folder: Path, what: str, error: OSError) -> str:
    return (
        f"{folder}: cannot write {what} ({error.strerror or error}): all records are kept; make room and run the same "
        "command again to go on."
    )
