"""Detectors in an evaluation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from robustseg.attacks.guard import Model
from robustseg.detectors import Detector
from robustseg.evaluation.evaluator import Outcome
from robustseg.evaluation.views import Look, View
from robustseg.types import Batch


class Consistency(View):
    """Notes the score that a detector gives an image: one number.

    Detectors see the image and the model's answers, and nothing of the true targets, so that ignored pixels count too.

    Args:
        detector: The detector.
        seed: Of the evaluation.
        attacks: Names of the attacks to look at, "clean" among them; None for all.
    """

    def __init__(self, detector: Detector, seed: int = 0, attacks: Collection[str] | None = None):
        self.detector = detector
        self.seed = seed
        self.attacks = attacks

    def wants(self, attack: str) -> bool:  # noqa: D102
        return self.attacks is None or attack in self.attacks

    def begin(self, model: Model, batch: Batch, scored: Mapping[str, Model]) -> Look:  # noqa: D102
        return _Score(self, model, batch)

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return self.detector.describe()


class _Score(Look):
    def __init__(self, view: Consistency, model: Model, batch: Batch):
        self._view, self._model, self._batch = view, model, batch

    def finish(self, outcome: Outcome) -> Sequence[Tensor]:
        images = outcome.result.images_adv
        scores = self._view.detector.scores(self._model, images, self._batch.ids, seed=self._view.seed)
        return list(scores.view(-1, 1))
