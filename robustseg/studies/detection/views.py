"""The views of the study of detection: scores of pairs, curves over an attack's steps, self-entropy, targets."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks import AttackStep
from robustseg.attacks.base import reads_no_logits
from robustseg.attacks.guard import Model
from robustseg.detectors import Detector, GaussianBlur, self_entropy
from robustseg.evaluation.attacking import Outcome, predict
from robustseg.evaluation.views import Look, View
from robustseg.metrics import class_counts, confusion_matrix, target_success
from robustseg.types import Batch


class _Chosen(View):
    """A view of the images of some attacks.

    Args:
        attacks: Names of the attacks, possibly "clean".
    """

    def __init__(self, attacks: Collection[str]):
        self.attacks = frozenset(attacks)

    def wants(self, attack: str) -> bool:
        return attack in self.attacks


class Parts(_Chosen):
    """A view that records the parts whose mean is a detector's score.

    The first K pairs of :class:`~robustseg.detectors.SpatialConsistency` are those of the same detector with K pairs,
    so one view serves several K.

    Args:
        detector: The detector.
        seed: Seed of the evaluation.
        attacks: Names of the attacks to view.
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
    """A view that records a detector's scores of an attack's iterates: Xiao et al., ECCV 2018, Fig. 6 (b).

    The score at step t is that of the iterate at which the t-th gradient was taken. The first iterate is the clean
    image if the attack begins there. An image that leaves the attack early keeps the score of its result.

    Args:
        detector: The detector, which compares the same pairs each time.
        steps: Steps at which to compare, counted from 1.
        seed: Seed of the evaluation.
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

    @reads_no_logits
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
    """A view that records the share of an attack's target that the model shows on the blurred image.

    Args:
        blur: The detector's blur.
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
    """A view that records the self-entropy of each pixel of some images, and the clean images themselves.

    A note is H, W, the H·W entropies in nats and, for an unchanged image, its 3·H·W values. For other images it is
    empty.

    Args:
        samples: Ids of the images.
        patch_size: Side of the patches in pixels.
        k: Number of votes per pixel.
        seed: Seed of the evaluation.
        attacks: Names of the attacks to view.
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
    """A view that counts a model's predictions at the pixels with a target other than the true class.

    A note is the true positives, wanted and predicted pixels of each class, 3·C values, over the pixels with a wanted
    class other than the true one: the others say nothing about the attack.

    Args:
        key: Key of the model among the scored ones.
        num_classes: Number of classes C.
        ignore_index: Label of pixels that are not counted.
        attacks: Names of targeted attacks.
        num_scored: Number of classes that are scored, the first ones; None for all.
    """

    def __init__(
        self,
        key: str,
        num_classes: int,
        ignore_index: int,
        attacks: Collection[str],
        num_scored: int | None = None,
    ):
        super().__init__(attacks)
        self.key = key
        self.num_scored = num_scored
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def look(  # noqa: D102
        self, model: Model, batch: Batch, scored: Mapping[str, Model], outcome: Outcome
    ) -> Sequence[Tensor]:
        targets, wanted = batch.targets, wanted_of(outcome)
        shown = predict(scored[self.key], outcome.result.images_adv, targets, self.ignore_index)
        told = wanted.masked_fill((targets == wanted) | (targets == self.ignore_index), self.ignore_index)
        matrices = confusion_matrix(shown, told, self.num_classes, self.ignore_index)
        counts = class_counts(matrices, self.num_scored)
        return list(counts.flatten(1).double().cpu())

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {"view": "TargetCounts", "model": self.key}


def wanted_of(outcome: Outcome) -> Tensor:
    """Return the target map of a targeted attack, B×H×W class ids.

    Raises:
        ValueError: The attack has no target map.
    """
    if outcome.wanted is None:
        raise ValueError("an attack without a target map cannot be held against one.")
    return outcome.wanted
