"""The search of some images in float32 as well, in an evaluation that searches in low precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustseg.data import collate
from robustseg.evaluation.attack_stage import AttackStage, gradient_steps
from robustseg.evaluation.attacking import attack_batch, predict
from robustseg.evaluation.benchmark.plan import Benchmark
from robustseg.evaluation.benchmark.probe import kept_evidence
from robustseg.evaluation.card import SearchFacts
from robustseg.evaluation.errors import not_written
from robustseg.evaluation.measurements import Measurements
from robustseg.evaluation.protocol import digest
from robustseg.evaluation.targets import own_predictions
from robustseg.files import write_json
from robustseg.metrics import class_counts, confusion_matrix, scores_from_counts
from robustseg.numerics.precision import full_precision
from robustseg.opening.seal import sealed
from robustseg.types import Batch

STAGE = "searching in float32"
"""Name of this part in the progress of an evaluation."""
SHOWN = ("pixel_acc", "miou")
"""Figures that are compared."""


def float32_steps(benchmark: Benchmark) -> float:
    """Return the gradient steps that this costs for an image."""
    return float(sum(gradient_steps(settings) for settings in benchmark.attack_settings.values()))


def float32_images(benchmark: Benchmark, folder: Path) -> int:
    """Return the number of images that are still to be searched in float32."""
    ids = _ids(benchmark)
    there = all(_path(folder, _about(benchmark, name, ids)).exists() for name in benchmark.attacks)
    return 0 if there else len(ids)


def search_facts(
    benchmark: Benchmark, measured: Measurements, folder: Path, device: torch.device, stage: AttackStage
) -> dict[str, Any] | None:
    """Return what a card says of the search's precision; None for a search in float32.

    Each attack is run in float32 on some images, unless the folder has the result, which is kept attack by attack.

    Args:
        benchmark: The benchmark, completely measured.
        measured: Its measurements.
        folder: Folder of the evaluation.
        device: Device of the search.
        stage: Display of the evaluation.

    Raises:
        EvaluationError: A result cannot be written.
        AttackError: An attack cannot be run in float32.
    """
    search = benchmark.search
    if search is None:
        return None
    stage.follow(STAGE, len(benchmark.float32_indices))
    ids = _ids(benchmark)
    rows = [measured.samples.index(sample) for sample in ids]
    lost = {}
    for name in benchmark.attacks if rows else ():
        if name in measured.refused:
            continue
        float32 = _figures(_counts(benchmark, name, ids, folder, device, stage))
        low = _figures(measured.counts[name][rows])
        lost[name] = {key: _difference(low[key], float32[key]) for key in SHOWN}
    facts = SearchFacts(**search.describe(), images=len(rows), limit=float(search.limit), lost=lost)
    return facts.model_dump()


def _counts(
    benchmark: Benchmark, name: str, ids: list[str], folder: Path, device: torch.device, stage: AttackStage
) -> Tensor:
    """Return the class counts of the images after a search in float32, N×3×C, measured or read."""
    steps, about = gradient_steps(benchmark.attack_settings[name]), _about(benchmark, name, ids)
    path = _path(folder, about)
    found = kept_evidence(path)
    if found is not None and found.get("about") == about:
        return torch.tensor(found["counts"], dtype=torch.int64)
    counts = []
    for batch in _batches(benchmark, device):
        with full_precision():
            model, attack = benchmark.model.to(device), benchmark.attacks[name]
            outcome = attack_batch(model, attack, batch.ids, batch.images, batch.targets, benchmark.seed)
            predictions = predict(model, outcome.result.images_adv, batch.targets, benchmark.data.ignore_index)
        how = (model.num_classes, benchmark.data.ignore_index, benchmark.count_void)
        matrices = confusion_matrix(predictions, batch.targets, *how)
        counts.append(class_counts(matrices, model.num_scored).cpu())
        stage.follow_step(steps * len(batch.ids) / len(ids), name)
    try:
        write_json(sealed({"about": about, "counts": torch.cat(counts).tolist()}), path)
    except OSError as error:
        raise not_written(path, error) from error
    return torch.cat(counts)


def _ids(benchmark: Benchmark) -> list[str]:
    dataset = benchmark.data.dataset(benchmark.split)
    return [dataset.sample_id(index) for index in benchmark.float32_indices]


def _about(benchmark: Benchmark, name: str, ids: list[str]) -> str:
    """Return the digest of what the result of an attack depends on."""
    settings = benchmark.attack_settings[name]
    return digest({"attack": settings, "images": ids, "facts": {**benchmark.facts, "search": None}})


def _path(folder: Path, about: str) -> Path:
    return folder / f"checks-float32-{about[:8]}.json"


def _batches(benchmark: Benchmark, device: torch.device) -> Iterator[Batch]:
    """Yield the images in batches of one size."""
    of, dataset = benchmark, benchmark.data.dataset(benchmark.split)
    samples = (dataset[index] for index in of.float32_indices)
    for _, alike in groupby(samples, key=lambda sample: sample.image.shape):
        group = list(alike)
        for start in range(0, len(group), of.data.val_batch_size):
            batch = collate(group[start : start + of.data.val_batch_size])
            images, targets = batch.images.to(device), batch.targets.to(device)
            if of.targets == "predictions":
                targets = own_predictions(of.model.to(device), images)
            yield Batch(images, targets, batch.ids)


def _figures(counts: Tensor) -> Mapping[str, float]:
    return {key: float(value) for key, value in scores_from_counts(counts).items() if key in SHOWN}


def _difference(low: float, float32: float) -> float | None:
    difference = round(low - float32, 6)
    return difference if difference == difference else None
