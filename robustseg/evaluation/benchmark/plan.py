"""What is to be evaluated, and which part of it by this process."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from robustseg.attacks import Attack
from robustseg.data import DataError, SegmentationData
from robustseg.data.base import Split
from robustseg.detectors import Detector, DetectorError
from robustseg.evaluation import EvaluationError
from robustseg.evaluation.benchmark.detection import Consistency
from robustseg.evaluation.benchmark.facts import data_facts, model_facts
from robustseg.evaluation.protocol import digest
from robustseg.evaluation.views import View, view_settings
from robustseg.models import SegmentationModel


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count`` of an evaluation.

    Raises:
        EvaluationError: ``number`` is not one of 1..count.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise EvaluationError(f"--shard {self}: the first number goes from 1 to the second.")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``"2/4"`` is the second of four parts.

        Raises:
            EvaluationError: It is not of that form.
        """
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if match is None:
            raise EvaluationError(f"--shard {text}: write i/n, such as 1/4 for the first of four parts.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass
class Benchmark:
    """One model under a suite of attacks on one split.

    Args:
        model: With its weights.
        data: Set up for a test.
        attacks: By the name they are reported under.
        checkpoint: ``path`` and ``sha256`` of the file that the weights came from, or None.
        settings: Arguments that the network was built with, for the record.
        trained_with: ``describe()`` of the attacker in the training loop, None for standard training, "unknown".
        reference_miou: Clean miou that the checkpoint's own record has for this split, or None.
        suite: Name of the suite, for the record.
        seed: Of the attacks' noise.
        only: Ids of the samples to score; None for the whole split.
        shard: The part that this process measures.
        check_images: Number of images to probe the model on for the trust flags; 0 leaves the probe out.
        scored: Models by name that the adversarial images are shown to instead of ``model``, which is attacked: records
            are then called ``<attack> on <name>``.
        for_itself: Names of attacks whose images only the model of the name "" among these is shown.
        views: By name, what else looks at the images.
        num_pictures: How many of the best and of the worst images to show for an attack.
        detectors: Detectors to put in front of the model, by the name they are reported under.
        false_positive_rate: Largest share of the benign images that a detector's threshold may reject.
        threshold_images: Number of benign images that thresholds are fitted on, evenly spread over the training split;
            None for all.

    Raises:
        DataError: A sample is missing or cannot be used.
        EvaluationError: ``only`` names a sample that is not in the split, or none; or there are detectors and no
            training split to fit their thresholds on.
    """

    model: SegmentationModel
    data: SegmentationData
    attacks: Mapping[str, Attack]
    checkpoint: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    trained_with: Mapping[str, Any] | str | None = "unknown"
    reference_miou: float | None = None
    suite: str | None = None
    seed: int = 0
    only: Sequence[str] | None = None
    shard: Shard = field(default_factory=Shard)
    check_images: int = 8
    num_pictures: int = 3
    scored: Mapping[str, nn.Module] = field(default_factory=dict)
    for_itself: Collection[str] = ()
    views: Mapping[str, View] = field(default_factory=dict)
    detectors: Mapping[str, Detector] = field(default_factory=dict)
    false_positive_rate: float = 0.05
    threshold_images: int | None = 100

    def __post_init__(self) -> None:
        if self.check_images < 0:
            raise EvaluationError(f"check_images = {self.check_images}: use 0 for none.")
        self.attacks = {name: attack.for_data(self.data.class_pixels) for name, attack in self.attacks.items()}
        self.split: Split = self.data.test_split()
        everything = self.data.sample_ids(self.split)
        if self.only is not None:
            places = {sample: index for index, sample in enumerate(everything)}
            unknown = [sample for sample in self.only if sample not in places]
            if unknown:
                raise EvaluationError(
                    f"{len(unknown)} of the {len(self.only)} ids to score are not in the {self.split} split, the first "
                    f"is {unknown[0]!r}: its ids look like {everything[0]!r}."
                )
            if not self.only:
                raise EvaluationError("the list of ids to score is empty: name at least one sample, or leave it out.")
            self.indices = sorted(places[sample] for sample in set(self.only))
        else:
            self.indices = list(range(len(everything)))
        self.samples = [everything[index] for index in self.indices]
        if self.detectors:
            self._check_detectors()
        whole = len(self.samples) == len(everything)
        self.facts: dict[str, Any] = {
            "model": model_facts(self.model, self.settings, self.checkpoint),
            "data": {**data_facts(self.data, self.split), "ids": None if whole else self.samples},
            "seed": self.seed,
            # A training run in bf16-true ends with a model, and an evaluation, in that precision.
            "precision": str(next(self.model.parameters(), self.model.mean).dtype).removeprefix("torch."),
        }

    def _check_detectors(self) -> None:
        """Find what would end the evaluation after everything is measured."""
        if twice := sorted(self.detectors.keys() & self.views.keys()):
            raise EvaluationError(f"a detector and a view are both called {twice[0]!r}: rename the detector.")
        needed = (
            "robustness.detectors: thresholds are fitted on benign images of the training split, which cannot be used: "
            "give the data set one, or leave robustness.detectors out."
        )
        try:
            images = self.data.sample_ids("train")
        except DataError as error:
            raise EvaluationError(f"{needed} {error}") from error
        if not images:
            raise EvaluationError(f"{needed} It has no images.")
        sample = self.data.dataset(self.split)[self.indices[0]]
        for name, detector in self.detectors.items():
            try:
                detector.check(*sample.image.shape[-2:])
            except DetectorError as error:
                raise EvaluationError(f"robustness.detectors.{name}, image {sample.id}: {error}") from None

    @property
    def name(self) -> str:
        """Of the default folder: another checkpoint, model, data set, choice of samples or seed gives another name."""
        return f"evaluation_{digest(self.facts)[:8]}"

    @property
    def scored_on(self) -> list[str]:
        """Names of the models that answer; the attacked one has none."""
        return list(self.scored) or [""]

    @property
    def attack_settings(self) -> dict[str, dict[str, Any]]:
        """``describe()`` of the attacks by name."""
        return {name: attack.describe() for name, attack in self.attacks.items()}

    @property
    def detector_views(self) -> dict[str, View]:
        """What notes the detectors' scores."""
        return {name: Consistency(detector, self.seed) for name, detector in self.detectors.items()}

    @property
    def every_view(self) -> dict[str, View]:
        """All that looks at the images, detectors among them."""
        return {**self.views, **self.detector_views}

    @property
    def record_settings(self) -> dict[str, dict[str, Any]]:
        """``describe()`` of everything that records are made by: attacks and views."""
        return self.attack_settings | view_settings(self.every_view)

    def checks_file(self, folder: Path) -> Path:
        """Where what the probe of the model found is kept; it depends on the suite and the images."""
        key = digest({"attacks": self.attack_settings, "images": self.probe_samples})
        return folder / f"checks-{key[:8]}.json"

    @property
    def probe_indices(self) -> list[int]:
        """Samples to probe the model on, spread evenly over those that are scored."""
        return [self.indices[place] for place in _spread(self.check_images, len(self.indices))]

    @property
    def benign_indices(self) -> list[int]:
        """Training samples to fit thresholds on."""
        images = len(self.data.dataset("train"))
        return _spread(images if self.threshold_images is None else self.threshold_images, images)

    @property
    def probe_samples(self) -> list[str]:
        """Ids of :attr:`probe_indices`."""
        dataset = self.data.dataset(self.split)
        return [dataset.sample_id(index) for index in self.probe_indices]

    def batches(self) -> list[list[int]]:
        """Indices of the samples in blocks that are measured together, this shard's only.

        The blocks are the same whatever the number of shards and ranks: rounding in a model may depend on them.
        """
        size = self.data.val_batch_size
        blocks = [self.indices[start : start + size] for start in range(0, len(self.indices), size)]
        return blocks[self.shard.number - 1 :: self.shard.count]


def _spread(count: int, length: int) -> list[int]:
    """Evenly spread places among so many, at most all."""
    count = min(count, length)
    return [(2 * k + 1) * length // (2 * count) for k in range(count)]
