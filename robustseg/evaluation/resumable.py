"""An evaluation that may be killed at any moment, shared by processes and continued."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from robustseg.attacks import Attack, NoGradientError
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
from robustseg.evaluation.protocol import claim, differences
from robustseg.evaluation.record import image_figures
from robustseg.evaluation.results import write_json
from robustseg.evaluation.store import ImageRecord, RecordWriter, Stream, read_records, streams
from robustseg.metrics import confusion_matrix, pixel_acc
from robustseg.types import IGNORE_INDEX, Batch

REFUSED = "refused"


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
    ):
        if CLEAN in attacks:
            raise ValueError(f"an attack cannot be called {CLEAN!r}: that is the name of the scores without attack.")
        self.folder = folder
        self.attacks = dict(attacks)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.seed = seed
        self.scored_on = list(scored_on)
        settings = {name: attack.describe() for name, attack in self.attacks.items()}
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
        """Names of the records, see :func:`record_name`, that are still to be measured on a sample."""
        return [name for attack in (CLEAN, *self.attacks) for name in self._missing(sample, attack)]

    def _missing(self, sample: str, attack: str) -> list[str]:
        if attack in self.refused:
            return []
        names = (record_name(attack, target) for target in self.scored_on)
        return [name for name in names if (sample, name) not in self._done]

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
            names = {record_name(attack, target): target for target in self.scored_on}
            rows = [row for row, sample in enumerate(ids) if not missing[sample].isdisjoint(names)]
            if not rows:
                continue
            part = Batch(images[rows], targets[rows], [ids[row] for row in rows])
            wanted = [name for name in names if any(name in missing[sample] for sample in part.ids)]
            with full_precision():
                outcome = self._attack(attack, model, part, on_step)
                if outcome is None:
                    continue
                records = [self._score(name, models[names[name]], part, outcome, missing) for name in wanted]
            for found in records:
                self._writer.append(found)
                self._done |= {(record.sample, record.attack) for record in found}

    def _attack(self, name: str, model: Model, batch: Batch, on_step: OnAttackStep | None) -> Outcome | None:
        """The adversarial images, or None where the attack cannot be run."""
        if name == CLEAN:
            return Outcome(untouched(batch.images), None, 0.0)
        try:
            return attack_batch(
                model, self.attacks[name], batch.ids, batch.images, batch.targets, self.seed, named_step(on_step, name)
            )
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
        traces = [None] * size if trace is None or name not in self.attacks else list(trace.cpu())
        rows = zip(batch.ids, confusions.cpu(), figures.cpu(), traces, strict=True)
        return [ImageRecord(id, name, matrix, row, size, each) for id, matrix, row, each in rows if name in missing[id]]

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


def _no_room(folder: Path, what: str, error: OSError) -> str:
    return (
        f"{folder}: cannot write {what} ({error.strerror or error}): all records are kept; make room and run the same "
        "command again to go on."
    )


def record_name(attack: str, target: str = "") -> str:
    """Name of the records of an attack, or "clean": its own, or ``<attack> on <target>`` where other models answer."""
    return f"{attack} on {target}" if target else attack


def refusal_path(folder: Path, attack: str) -> Path:
    """Where it is noted that an attack could not be run."""
    return folder / REFUSED / f"{hashlib.sha256(attack.encode()).hexdigest()[:24]}.json"


def refusal(folder: Path, attack: str) -> str | None:
    """Why an attack could not be run, if that was noted."""
    try:
        return str(json.loads(refusal_path(folder, attack).read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError):
        return None


def refuse_others(found: Iterable[Stream], protocol: str, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse records of another protocol, and of attacks that are called the same but are not.

    Args:
        found: Streams of the folder.
        protocol: Digest of the evaluation's facts.
        settings: ``describe()`` of the attacks by name.

    Raises:
        EvaluationError: See above; it names the file.
    """
    for stream in found:
        if stream.about.get("protocol") != protocol:
            raise EvaluationError(
                f"{stream.path} belongs to another evaluation (of another checkpoint, data or model): move it out of "
                "this folder. Nothing was changed."
            )
        for name, before in stream.about["attacks"].items():
            if name in settings and (changes := differences(before, settings[name])):
                raise EvaluationError(
                    f"{stream.path} holds results of {name} with other settings ({'; '.join(changes)}): give the "
                    "changed attack another name, or the evaluation another --output. Nothing was changed."
                )


def unique_records(found: Iterable[Stream]) -> Iterable[ImageRecord]:
    """The records of all streams, each (sample, attack) once.

    Two processes that were given the same samples measure them twice: the first record counts, since both are equal.

    Raises:
        EvaluationError: They are not equal.
    """
    seen: dict[tuple[str, str], tuple[int, Path]] = {}
    for stream in found:
        for record in read_records(stream):
            key, content = (record.sample, record.attack), hash(record.confusion.numpy().tobytes())
            if key not in seen:
                seen[key] = content, stream.path
                yield record
            elif seen[key][0] != content:
                raise EvaluationError(
                    f"{stream.path}: sample {record.sample} under {record.attack} was measured before, in "
                    f"{seen[key][1].name}, with another result. Something differed that is not in the protocol "
                    "(device, versions, batch size, a model that answers at random): move one of the two files out of "
                    "the folder, and what only that one holds is measured again."
                )
