"""What the study of detection notes of the images: scores of pairs, curves over an attack's steps, entropy, targets."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks import AttackStep
from robustseg.attacks.guard import Model
from robustseg.detectors import Detector, GaussianBlur, self_entropy
from robustseg.evaluation.attacking import Outcome, predict
from robustseg.evaluation.views import Look, View
from robustseg.metrics import class_counts, confusion_matrix, target_success
from robustseg.types import Batch


class _Chosen(View):
    """Looks at some attacks.

    Args:
        attacks: Their names, "clean" among them.
    """

    def __init__(self, attacks: Collection[str]):
        self.attacks = frozenset(attacks)

    def wants(self, attack: str) -> bool:
        return attack in self.attacks


class Parts(_Chosen):
    """Notes what a detector's score is the mean of.

    The first K pairs of :class:`~robustseg.detectors.SpatialConsistency` are those of the same detector with K pairs,
    so that one look serves several K.

    Args:
        detector: The detector.
        seed: Of the evaluation.
        attacks: Names of the attacks to look at.
    """

    def __init__(self, detector: Detector, seed: int, attacks: Collection[str]):
        super().__init__(attacks)
        self.detector = detector
        self.seed = seed

    def look(  # noqa: D102
        self, model: Model, batch: Batch, scored: Mapping[str, Model], outcome: Outcome
    ) -> Sequence[Tensor]:
        return list(self.detector.parts(model, outcome.result.images_adv, batch.ids, seed=self.seed))

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {"view": "Parts", **self.detector.describe()}


class ConsistencyCurve(_Chosen):
    """Notes a detector's scores of the iterates of an attack: Xiao et al., ECCV 2018, Fig. 6 (b).

    The score at step t is that of the iterate that the t-th gradient was taken at, the first of which is the clean
    image where the attack begins there. An image that is finished keeps the score of its result.

    Args:
        detector: The detector, asked about the same pairs each time.
        steps: At which steps, the first being 1.
        seed: Of the evaluation.
        attacks: Names of the attacks to watch.
    """

    watches = True

    def __init__(self, detector: Detector, steps: Sequence[int], seed: int, attacks: Collection[str]):
        super().__init__(attacks)
        self.detector = detector
        self.steps = list(steps)
        self.seed = seed

    def begin(self, model: Model, batch: Batch, scored: Mapping[str, Model]) -> Look:  # noqa: D102
        return _CurveLook(self, model, batch)

    def look(  # noqa: D102
        self, model: Model, batch: Batch, scored: Mapping[str, Model], outcome: Outcome
    ) -> Sequence[Tensor]:
        return self.begin(model, batch, scored).finish(outcome)

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {"view": "ConsistencyCurve", "steps": self.steps, **self.detector.describe()}


class _CurveLook(Look):
    def __init__(self, view: ConsistencyCurve, model: Model, batch: Batch):
        self._view, self._model, self._batch = view, model, batch
        self._scores = torch.full((len(batch.ids), len(view.steps)), math.nan, dtype=torch.float64)

    def step(self, step: AttackStep) -> None:
        if step.step in self._view.steps and not step.restart:
            ids = [self._batch.ids[row] for row in step.rows.tolist()]
            scores = self._view.detector.scores(self._model, step.images_adv, ids, seed=self._view.seed)
            self._scores[step.rows.cpu(), self._view.steps.index(step.step)] = scores

    def finish(self, outcome: Outcome) -> Sequence[Tensor]:
        images = outcome.result.images_adv
        last = self._view.detector.scores(self._model, images, self._batch.ids, seed=self._view.seed)
        return list(torch.where(self._scores.isnan(), last.unsqueeze(1), self._scores))


class SuccessBehindBlur(_Chosen):
    """Notes how much of its target an attack makes the model show of the blurred image.

    Args:
        blur: Of the detector.
        ignore_index: Label of pixels that are not counted.
        attacks: Names of targeted attacks.
    """

    def __init__(self, blur: GaussianBlur, ignore_index: int, attacks: Collection[str]):
        super().__init__(attacks)
        self.blur = blur
        self.ignore_index = ignore_index

    def look(  # noqa: D102
        self, model: Model, batch: Batch, scored: Mapping[str, Model], outcome: Outcome
    ) -> Sequence[Tensor]:
        shown = predict(model, self.blur(outcome.result.images_adv), batch.targets, self.ignore_index)
        success = target_success(shown, wanted_of(outcome), batch.targets, self.ignore_index)
        return list(success.view(-1, 1).cpu())

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {"view": "SuccessBehindBlur", "sigma": self.blur.sigma}


class EntropyMaps(_Chosen):
    """Notes the self-entropy of each pixel of some images, and of these the clean image itself.

    A note is H, W, the H·W entropies and, where no attack changed the image, its 3·H·W values; of other images nothing.

    Args:
        samples: Ids of the images.
        patch_size: Side of the patches in pixels.
        k: Votes of a pixel.
        seed: Of the evaluation.
        attacks: Names of the attacks to look at.
    """

    def __init__(self, samples: Collection[str], patch_size: int, k: int, seed: int, attacks: Collection[str]):
        super().__init__(attacks)
        self.samples = frozenset(samples)
        self.patch_size = patch_size
        self.k = k
        self.seed = seed

    def look(  # noqa: D102
        self, model: Model, batch: Batch, scored: Mapping[str, Model], outcome: Outcome
    ) -> Sequence[Tensor]:
        return [
            self._note(model, sample, clean, image)
            for sample, clean, image in zip(batch.ids, batch.images, outcome.result.images_adv, strict=True)
        ]

    def describe(self) -> dict[str, Any]:  # noqa: D102
        settings = {"patch_size": self.patch_size, "k": self.k, "samples": sorted(self.samples)}
        return {"view": "EntropyMaps", **settings}

    def _note(self, model: Model, sample: str, clean: Tensor, image: Tensor) -> Tensor:
        if sample not in self.samples:
            return torch.zeros(0, dtype=torch.float64)
        settings = {"patch_size": self.patch_size, "k": self.k, "seed": self.seed}
        entropy = self_entropy(model, image[None], [sample], **settings)[0]
        unchanged = torch.equal(image, clean)
        parts = [torch.tensor(entropy.shape), entropy.flatten(), *([image.flatten()] if unchanged else [])]
        return torch.cat([part.double().cpu() for part in parts])


class TargetCounts(_Chosen):
    """Notes what a model shows where an attack wants something else than the truth.

    A note is true positives, wanted and shown pixels of each class, 3·C, over the pixels whose wanted class is not the
    true one: the rest says nothing about the attack.

    Args:
        key: Of the model among those that are scored.
        num_classes: C.
        ignore_index: Label of pixels that are not counted.
        attacks: Names of targeted attacks.
    """

    def __init__(self, key: str, num_classes: int, ignore_index: int, attacks: Collection[str]):
        super().__init__(attacks)
        self.key = key
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def look(  # noqa: D102
        self, model: Model, batch: Batch, scored: Mapping[str, Model], outcome: Outcome
    ) -> Sequence[Tensor]:
        targets, wanted = batch.targets, wanted_of(outcome)
        shown = predict(scored[self.key], outcome.result.images_adv, targets, self.ignore_index)
        told = wanted.masked_fill((targets == wanted) | (targets == self.ignore_index), self.ignore_index)
        counts = class_counts(confusion_matrix(shown, told, self.num_classes, self.ignore_index))
        return list(counts.flatten(1).double().cpu())

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {"view": "TargetCounts", "model": self.key}


def wanted_of(outcome: Outcome) -> Tensor:
    """What a targeted attack wanted the model to show, B×H×W.

    Raises:
        ValueError: The attack had no target map.
    """
    if outcome.wanted is None:
        raise ValueError("an attack without a target map cannot be held against one.")
    return outcome.wanted
