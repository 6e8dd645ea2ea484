"""The disk sink: records in a folder that processes share; an evaluation that was killed is continued from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks import Attack, NoGradientError
from robustseg.attacks.guard import Model
from robustseg.evaluation.attacking import CLEAN, Attacked, predict
from robustseg.evaluation.errors import EvaluationError
from robustseg.evaluation.panels import Example
from robustseg.evaluation.pictures import PictureKeeper
from robustseg.evaluation.protocol import claim
from robustseg.evaluation.records import refusal_path, refuse_others, unique_records
from robustseg.evaluation.sinks import Sink
from robustseg.evaluation.store import ImageRecord, RecordWriter, streams
from robustseg.evaluation.views import View, view_settings
from robustseg.files import remedy, write_json
from robustseg.metrics import pixel_acc
from robustseg.types import IGNORE_INDEX, Batch


class DiskSink(Sink):
    """A sink that stores records in an evaluation's folder, so that only missing ones are measured.

    Several processes may work in one folder at the same time, each on other samples. The records of a batch are on disk
    when the evaluator's update returns. If an attack is added later, only that attack is measured on all samples.

    Args:
        folder: Folder of the evaluation; created if it is not there.
        facts: Everything that figures depend on, except the attacks: hashes of the checkpoint and of the data, seed and
            so on, see :func:`~robustseg.evaluation.protocol.claim`.
        writer: Name of this process among those that share the folder.
        about: Further facts that may differ between processes, such as versions; they are kept with the records.
        num_pictures: Number of worst images under each attack to keep for the report, and of best images.
        ignore_index: Label of pixels that are not counted, for predictions on clean images that were measured before.
    """

    device = torch.device("cpu")
    rounds = True

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        writer: str = "records",
        about: Mapping[str, Any] | None = None,
        num_pictures: int = 3,
        ignore_index: int | None = IGNORE_INDEX,
    ):
        self.folder = folder
        self.pictures = PictureKeeper(folder, num_pictures)
        self._facts = facts
        self._name = writer
        self._about = dict(about or {})
        self._ignore_index = ignore_index
        self._done: set[tuple[str, str]] = set()
        # Predictions on the clean images of the current batch, for its pictures.
        self._clean: dict[str, Tensor] = {}

    def open(self, attacks: Mapping[str, Attack], views: Mapping[str, View], num_classes: int) -> None:
        """Claim the folder, and read its records.

        Raises:
            EvaluationError: The folder holds another evaluation, an attack of the same name with other settings, or
                records that contradict one another.
        """
        settings = {name: attack.describe() for name, attack in attacks.items()} | view_settings(views)
        protocol = claim(self.folder, self._facts)
        found = streams(self.folder)
        refuse_others(found, protocol, settings)
        for record in unique_records(found):
            self._done.add((record.sample, record.attack))
            if record.attack in attacks:
                self.pictures.remember(record.attack, record.sample, float(pixel_acc(record.confusion)))
        about = {"protocol": protocol, "attacks": settings, **self._about}
        self._writer = RecordWriter(self.folder, self._name, about, num_classes)

    def lacks(self, sample: str, name: str) -> bool:  # noqa: D102
        return (sample, name) not in self._done

    def begin(self) -> None:  # noqa: D102
        self._clean = {}

    def put(self, records: Sequence[ImageRecord]) -> None:
        """Append records as one unit: a process that is killed leaves all of them or none.

        Raises:
            EvaluationError: They cannot be written.
        """
        self._writer.append(records)
        self._done |= {(record.sample, record.attack) for record in records}

    def refuse(self, attack: str, error: NoGradientError) -> None:
        """Write the reason why an attack cannot be run, for the card.

        Raises:
            EvaluationError: The note cannot be written.
        """
        try:
            write_json({"attack": attack, "reason": str(error)}, refusal_path(self.folder, attack))
        except OSError as failure:
            raise EvaluationError(_no_room(self.folder, "that an attack was refused", failure)) from failure

    def close(self) -> None:
        """Close the file of records."""
        self._writer.close()

    def see(self, model: Model, name: str, batch: Batch, attacked: Attacked, pixel_accs: Tensor) -> None:
        """Keep pictures of the best and worst images.

        Raises:
            EvaluationError: A picture cannot be written.
        """
        if name == CLEAN:
            self._clean = dict(zip(batch.ids, attacked.predictions, strict=True))
            return
        rows = self.pictures.wanted(name, batch.ids, pixel_accs)
        # For clean images that were measured before, the folder has only the counts.
        unknown = [row for row in rows if batch.ids[row] not in self._clean]
        if unknown:
            fresh = predict(model, batch.images[unknown], batch.targets[unknown], self._ignore_index)
            self._clean |= zip([batch.ids[row] for row in unknown], fresh, strict=True)
        for row in rows:
            clean, (images_adv, predictions) = self._clean[batch.ids[row]], attacked
            tensors = (batch.images[row], images_adv[row], batch.targets[row], clean, predictions[row])
            example = Example(batch.ids[row], *(tensor.detach().cpu() for tensor in tensors))
            try:
                self.pictures.keep(name, example, float(pixel_accs[row]))
            except OSError as error:
                raise EvaluationError(_no_room(self.folder, "a picture", error)) from error


def _no_room(folder: Path, what: str, error: OSError) -> str:
    return (
        f"{folder}: cannot write {what} ({error.strerror or error}): all records are kept; {remedy(error)} and run the "
        "same command again to go on."
    )
