"""Detectors in front of the model: thresholds from benign training images, and the scores under them."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from robustseg.attacks import NOISE_VERSION
from robustseg.data import DataError, collate
from robustseg.detectors import Detector, DetectorError, Threshold, auc
from robustseg.evaluation import CLEAN, EvaluationError
from robustseg.evaluation.attack_stage import FORWARD, AttackStage
from robustseg.evaluation.benchmark.plan import Benchmark
from robustseg.evaluation.errors import not_written
from robustseg.evaluation.measurements import Measurements
from robustseg.evaluation.protocol import FIRST_NOISE, digest
from robustseg.evaluation.rejection import has_valid_pixels, rejection_scores
from robustseg.evaluation.views import seen_name
from robustseg.files import write_json
from robustseg.opening.plain import read_json
from robustseg.opening.regular import LIST, UnfitFile
from robustseg.opening.seal import sealed, unsealed
from robustseg.types import Sample

BENIGN = "benign-*.json"
"""Files with the scores of benign images."""


def detectors_of(
    benchmark: Benchmark, measured: Measurements, folder: Path, device: torch.device, stage: AttackStage
) -> dict[str, dict[str, Any]]:
    """Compute the part of a card about detectors, by their names; empty without any.

    Args:
        benchmark: The benchmark, completely measured.
        measured: Its measurements, with those of the detectors.
        folder: Folder of the evaluation, also for the scores of benign images and for ``threshold_<name>.json``, which
            :meth:`~robustseg.detectors.Threshold.load` reads.
        device: Device to score benign images on.
        stage: Display of the evaluation.

    Raises:
        EvaluationError: A threshold cannot be fitted or written.
    """
    found = {}
    for name, detector in benchmark.detectors.items():
        stage.follow(f"threshold of {name}", len(benchmark.benign_indices))
        threshold = _threshold(benchmark, name, detector, folder, device, stage)
        found[name] = {
            "settings": detector.describe(),
            "threshold": {
                "value": threshold.value,
                "false_positive_rate": threshold.false_positive_rate,
                "images": threshold.images,
            },
            "clean": _row(measured, CLEAN, name, threshold),
            "attacks": {attack: _row(measured, attack, name, threshold) for attack in benchmark.attacks},
        }
    return found


def _row(measured: Measurements, attack: str, detector: str, threshold: Threshold) -> dict[str, Any]:
    seen = seen_name(attack, detector)
    reason = measured.refused.get(attack) or measured.refused.get(seen)
    if reason is not None:
        return {"error": reason}
    counts, scores = measured.counts[attack], torch.cat(measured.values[seen])
    row = {"error": None, **rejection_scores(counts, threshold.detects(scores), adversarial=attack != CLEAN)}
    if attack == CLEAN:
        return row
    benign = torch.cat(measured.values[seen_name(CLEAN, detector)])
    scored = has_valid_pixels(counts)
    return {**row, "auc": auc(benign[scored], scores[scored]) if bool(scored.any()) else None}


def _threshold(
    benchmark: Benchmark, name: str, detector: Detector, folder: Path, device: torch.device, stage: AttackStage
) -> Threshold:
    try:
        scores = _benign_scores(benchmark, detector, folder, device, stage)
        threshold = Threshold.fit(detector, scores, benchmark.false_positive_rate)
    except (DataError, DetectorError) as error:
        raise EvaluationError(
            f"robustness.detectors.{name}: no threshold on benign images of the training split: {error} All records "
            "are kept: run the same command again when that is mended, with other robustness.threshold_images, or "
            "without this detector."
        ) from error
    path = folder / f"threshold_{quote(name, safe='')}.json"
    try:
        threshold.save(path)
    except OSError as error:
        raise not_written(path, error) from error
    return threshold


def _benign_scores(
    benchmark: Benchmark, detector: Detector, folder: Path, device: torch.device, stage: AttackStage
) -> Tensor:
    """Return the scores of the benign images, float64; those of earlier runs are read from the folder.

    They are written batch by batch. A threshold for any false positive rate follows from them without the model.
    """
    of = benchmark
    noise = of.facts.get("noise", FIRST_NOISE)
    about = {"detector": detector.describe(), "seed": of.seed, **({} if noise == FIRST_NOISE else {"noise": noise})}
    path = folder / BENIGN.replace("*", digest(about)[:8])
    known = _read(path, about)
    dataset, indices, scores = of.data.dataset("train").as_deployed(), of.benign_indices, []
    for start in range(0, len(indices), of.data.val_batch_size):
        # A continued evaluation uses the same batches, since rounding in a model may depend on them.
        samples = [dataset[index] for index in indices[start : start + of.data.val_batch_size]]
        prints = [_print(sample) for sample in samples]
        if any(key not in known for key in prints):
            if noise != NOISE_VERSION:
                raise DetectorError(
                    f"the noise of {folder} is of version {noise}, and {path.name} lacks scores, which would be of "
                    f"version {NOISE_VERSION}: choose another --output."
                )
            batch = collate(samples)
            found = detector.scores(of.model.to(device), batch.images.to(device), batch.ids, seed=of.seed)
            known |= dict(zip(prints, found.tolist(), strict=True))
            try:
                write_json(sealed({**about, "scores": known}), path, durable=False)
            except OSError as error:
                raise not_written(path, error) from error
        scores += [known[key] for key in prints]
        stage.follow_step(FORWARD * len(samples) / len(indices), f"benign images {len(scores)}/{len(indices)}")
    return torch.tensor(scores, dtype=torch.float64)


def _print(sample: Sample) -> str:
    """Return a key of id, shape and pixels, so that the score of an image that has changed is not reused."""
    pixels = hashlib.sha256(sample.image.numpy().tobytes()).hexdigest()[:16]
    return f"{sample.id} {list(sample.image.shape)} {pixels}"


def _read(path: Path, about: Mapping[str, Any]) -> dict[str, float]:
    """Read the scores in a file; empty if it is missing, damaged, or of another detector or seed."""
    try:
        found = unsealed(read_json(path, LIST))
        scores = found.pop("scores")
        known = {str(key): float(score) for key, score in scores.items()}
    except FileNotFoundError:
        return {}
    except UnfitFile as error:
        raise EvaluationError(f"{error}: remove it, and run the same command again.") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        warnings.warn(f"{path} is not used, and the images are scored again ({error}).", stacklevel=2)
        return {}
    # JSON turns tuples into lists.
    same = found == json.loads(json.dumps(about))
    return known if same and all(math.isfinite(score) for score in known.values()) else {}
