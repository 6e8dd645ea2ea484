"""The view that records detectors' scores in an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from robustseg.attacks.guard import Model
from robustseg.detectors import Detector
from robustseg.evaluation.attacking import Outcome
from robustseg.evaluation.views import View
from robustseg.types import Batch


class Consistency(View):
    """A view that records a detector's score of each image, one number.

    Detectors see the image and the model's answers, but not the targets, so ignored pixels count too.

    Args:
        detector: The detector.
        seed: Seed of the evaluation.
    """

    def __init__(self, detector: Detector, seed: int = 0):
        self.detector = detector
        self.seed = seed

    def look(  # noqa: D102
        self, model: Model, batch: Batch, scored: Mapping[str, Model], outcome: Outcome
    ) -> Sequence[Tensor]:
        return list(self.detector.scores(model, outcome.result.images_adv, batch.ids, seed=self.seed).view(-1, 1))

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return self.detector.describe()
