"""Benchmarks and shards: the plan of an evaluation, and the part of one process."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from robustseg.attacks import NOISE_VERSION, Attack
from robustseg.data import DataError, SegmentationData
from robustseg.data.base import Split
from robustseg.detectors import Detector, DetectorError
from robustseg.evaluation import EvaluationError
from robustseg.evaluation.benchmark.detection import Consistency
from robustseg.evaluation.benchmark.facts import data_facts, model_facts
from robustseg.evaluation.benchmark.outputs import check_outputs
from robustseg.evaluation.card import ModelFacts, Part, Protocol
from robustseg.evaluation.protocol import FIRST_NOISE, digest
from robustseg.evaluation.searched import MeasuredSearch
from robustseg.evaluation.targets import (
    TargetKind,
    check_targets,
    refuse_ignored_classes,
    refuse_other_ignore_index,
)
from robustseg.evaluation.views import View, view_settings
from robustseg.models import SegmentationModel


@dataclass(frozen=True)
class Shard:
    """The part ``number`` of ``count`` of an evaluation, counted from 1.

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
        """Parse text such as ``"2/4"``, the second of four parts.

        Raises:
            EvaluationError: The text is not of this form.
        """
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if match is None:
            raise EvaluationError(f"--shard {text}: write i/n, such as 1/4 for the first of four parts.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass
class Benchmark:
    """The evaluation of one model under a suite of attacks on one split.

    Args:
        model: The model with its weights.
        data: The data, set up for a test.
        attacks: Attacks by the name they are reported under.
        checkpoint: ``path`` and ``sha256`` of the file with the weights, or None.
        settings: Constructor arguments of the network, for the record.
        trained_with: ``describe()`` of the attacker in the training loop, None for standard training, or "unknown".
        reference_miou: Clean miou in the checkpoint's own record for this split, or None.
        suite: Name of the suite, for the record.
        targets: Targets of attacks and scores: the ``labels`` of the data, or the model's own ``predictions`` on the
            clean images.
        seed: Seed of the attacks' noise.
        only: Ids of the samples to score; None for the whole split.
        shard: The part that this process measures.
        check_images: Number of images to probe the model on for the trust flags; 0 leaves the probe out.
        scored: Models by name that are scored on the adversarial images instead of the attacked ``model``; their
            records are called ``<attack> on <name>``.
        for_itself: Names of attacks whose images only the scored model with the name "" is shown.
        views: Views that record further values of the images, by name.
        num_pictures: Number of best and of worst images to show for an attack.
        detectors: Detectors to put in front of the model, by the name they are reported under.
        false_positive_rate: Largest share of the benign images that a detector's threshold may reject.
        threshold_images: Number of benign images that thresholds are fitted on, evenly spread over the training split;
            None for all.
        search: Precision that attacks search in, with the images that are searched in float32 as well; None for float32
            throughout.
        count_void: Count ignored pixels as the model's void class.

    Raises:
        DataError: A sample is missing or cannot be used.
        EvaluationError: ``only`` names a sample that is not in the split, or none; there are detectors and no
            training split to fit their thresholds on; or the data have no labels and these are the targets.
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
    targets: TargetKind = "labels"
    search: MeasuredSearch | None = None
    count_void: bool = False

    def __post_init__(self) -> None:
        self._check_targets()
        if self.check_images < 0:
            raise EvaluationError(f"check_images = {self.check_images}: use 0 for none.")
        check_outputs(self.model, self.data, self.targets, self.count_void)
        pixels = self.model.class_pixels(self.data.class_pixels)
        self.attacks = {name: attack.for_data(pixels) for name, attack in self.attacks.items()}
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
            "noise": NOISE_VERSION,
            # Left out for labels, so that folders from before there was a choice are continued.
            **({"targets": self.targets} if self.targets != "labels" else {}),
            **({} if self.search is None else {"search": self.search.describe()}),
            **({"count_void": True} if self.count_void else {}),
            # A model that was trained in bf16-true is evaluated in that precision.
            "precision": str(next(self.model.parameters(), self.model.mean).dtype).removeprefix("torch."),
        }
        self._check_conditions()

    def conditions(self) -> dict[str, dict[str, Any]]:
        """Return what a card says of the model and the protocol."""
        return {
            "model": {**self.facts["model"], "trained_with": self.trained_with},
            "protocol": {
                "suite": self.suite,
                "targets": self.targets,
                "precision": self.facts["precision"],
                "seed": self.seed,
                "noise": self.facts.get("noise", FIRST_NOISE),
                **({} if self.search is None else {"search": self.search.describe()}),
                **({"count_void": True} if self.count_void else {}),
            },
        }

    def _check_conditions(self) -> None:
        """Refuse what no card could hold after everything is measured.

        Raises:
            EvaluationError: A card cannot hold a value.
        """
        parts: tuple[tuple[str, type[Part]], ...] = (("model", ModelFacts), ("protocol", Protocol))
        for name, part in parts:
            try:
                part.model_validate(json.loads(json.dumps(self.conditions()[name], allow_nan=False)))
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                raise EvaluationError(
                    f"a card cannot hold {name}.{first['loc'][0]} = {first['input']!r}: {first['msg']}."
                ) from None
            except (TypeError, ValueError) as error:
                raise EvaluationError(f"a card cannot hold what is known of the {name}: {error}.") from None

    def _check_targets(self) -> None:
        """Refuse targets that the data does not have, and attacks that ignore other pixels than the scores do.

        Raises:
            EvaluationError: They do not fit.
        """
        try:
            check_targets(self.targets, self.data.labelled)
            for name, attack in self.attacks.items() if self.targets == "labels" else ():
                refuse_other_ignore_index(name, attack.ignore_index, self.data.ignore_index)
            if self.targets == "predictions":
                ignored = [self.data.ignore_index, *(attack.ignore_index for attack in self.attacks.values())]
                refuse_ignored_classes(ignored, self.model.num_classes)
        except ValueError as error:
            raise EvaluationError(str(error)) from None

    def _check_detectors(self) -> None:
        """Refuse detectors that would end the evaluation after all attacks are measured.

        Raises:
            EvaluationError: A detector has the name of a view or does not fit the images, or there are no training
                images.
        """
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
        """Name of the default folder, which depends on checkpoint, model, data set, choice of samples and seed."""
        return f"evaluation_{digest(self.facts)[:8]}"

    @property
    def scored_on(self) -> list[str]:
        """Names of the scored models; "" is the attacked one."""
        return list(self.scored) or [""]

    @property
    def attack_settings(self) -> dict[str, dict[str, Any]]:
        """``describe()`` of the attacks by name."""
        return {name: attack.describe() for name, attack in self.attacks.items()}

    @property
    def detector_views(self) -> dict[str, View]:
        """Views that record the detectors' scores, by name."""
        return {name: Consistency(detector, self.seed) for name, detector in self.detectors.items()}

    @property
    def every_view(self) -> dict[str, View]:
        """All views, including those of detectors, by name."""
        return {**self.views, **self.detector_views}

    @property
    def record_settings(self) -> dict[str, dict[str, Any]]:
        """``describe()`` of the attacks and views that records come from, by name."""
        return self.attack_settings | view_settings(self.every_view)

    def checks_file(self, folder: Path) -> Path:
        """Return the file with the evidence of the model's probe; its name depends on the suite and the images."""
        key = digest({"attacks": self.attack_settings, "images": self.probe_samples})
        return folder / f"checks-{key[:8]}.json"

    @property
    def probe_indices(self) -> list[int]:
        """Indices of the samples to probe the model on, evenly spread over the scored ones."""
        return [self.indices[place] for place in _spread(self.check_images, len(self.indices))]

    @property
    def float32_indices(self) -> list[int]:
        """Indices of the samples that are searched in float32 as well, evenly spread over the scored ones."""
        count = 0 if self.search is None else self.search.images
        return [self.indices[place] for place in _spread(count, len(self.indices))]

    def refuse_search(self, device: torch.device) -> None:
        """Refuse a device that cannot search as this evaluation is to.

        Raises:
            EvaluationError: It cannot.
        """
        reason = "" if self.search is None else self.search.why_not(device, getattr(torch, self.facts["precision"]))
        if reason and self.search is not None:
            raise EvaluationError(
                f"robustness.search.precision = {self.search.precision}: {reason}: leave robustness.search out, or set "
                "its precision to float32."
            )

    @property
    def benign_indices(self) -> list[int]:
        """Indices of the training samples that thresholds are fitted on."""
        images = len(self.data.dataset("train"))
        return _spread(images if self.threshold_images is None else self.threshold_images, images)

    @property
    def probe_samples(self) -> list[str]:
        """Ids of :attr:`probe_indices`."""
        dataset = self.data.dataset(self.split)
        return [dataset.sample_id(index) for index in self.probe_indices]

    def batches(self) -> list[list[int]]:
        """Return the indices of this shard's samples, in batches.

        The batches do not depend on the number of shards and ranks, since rounding in a model may depend on them.
        """
        size = self.data.val_batch_size
        blocks = [self.indices[start : start + size] for start in range(0, len(self.indices), size)]
        return blocks[self.shard.number - 1 :: self.shard.count]


def _spread(count: int, length: int) -> list[int]:
    """Return ``count`` evenly spread indices below ``length``, at most all."""
    count = min(count, length)
    return [(2 * k + 1) * length // (2 * count) for k in range(count)]
