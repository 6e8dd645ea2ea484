"""Benchmarks of a configured model and its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustseg.callbacks import RobustnessEvaluation
from robustseg.data import SegmentationData
from robustseg.evaluation.benchmark import Benchmark, Shard
from robustseg.evaluation.card import UNKNOWN
from robustseg.evaluation.card_upgrade import upgrade_settings
from robustseg.models import SlidingWindow
from robustseg.models.checkpoints.load import WeightsInfo
from robustseg.opening.regular import LIST, read_text
from robustseg.resume.runs import RunError
from robustseg.training import RobustSegmentation

_NOT_SETTINGS = ("num_classes", "pretrained", "weights")
"""Arguments of a network without effect once its weights are loaded."""

EVALUATE_OPTIONS: tuple[tuple[str, Any, Any, str], ...] = (
    (
        "--output",
        str | None,
        None,
        "Folder of the results. An evaluation that is there is continued. By default RUN/evaluation_<digest>, which is "
        "the same folder as long as checkpoint, model, data and seed are.",
    ),
    ("--shard", str, "1/1", "Measure part i of n, written i/n; the last of n processes to finish writes the results."),
    ("--ids", str | None, None, "File with the id of one sample per line: score these only."),
    ("--check_images", int, 8, "Images to probe the model on for the trust flags; 0 leaves the probe out."),
)


def benchmark_of(
    module: RobustSegmentation,
    data: SegmentationData,
    robustness: RobustnessEvaluation,
    network: Mapping[str, Any],
    weights: WeightsInfo | None,
    shard: Shard,
    check_images: int,
    only: Sequence[str] | None,
) -> Benchmark:
    """Build the benchmark of a model under its suite.

    Args:
        module: The training module with the model.
        data: The data; its test split is scored.
        robustness: The callback with the suite and the detectors.
        network: Section of the configuration that the network was built from.
        weights: File with the model's weights, or None.
        shard: The part to measure.
        check_images: Number of images to probe the model on.
        only: Ids of samples to score; None: all, or ``robustness.test_num_images`` of them.
    """
    split = data.test_split()
    if only is None and robustness.test_num_images is not None:
        ids = data.sample_ids(split)
        count = min(robustness.test_num_images, len(ids))
        only = None if count == len(ids) else [ids[(2 * k + 1) * len(ids) // (2 * count)] for k in range(count)]
    settings = {key: value for key, value in (network.get("init_args") or {}).items() if key not in _NOT_SETTINGS}
    record = weights.get("record") if weights is not None else None
    if weights is not None and record is not None and record.get("averaged"):
        weights["averaged"] = True
    return Benchmark(
        module.model,
        data,
        robustness.attacks,
        weights,
        json.loads(json.dumps(settings, default=str)),
        _trained_with(record),
        _reference_miou(record, data, split, module.model.window),
        robustness.suite,
        module.seed,
        only,
        shard,
        check_images,
        detectors=robustness.detectors,
        false_positive_rate=robustness.false_positive_rate,
        threshold_images=robustness.threshold_images,
        targets=robustness.targets,
        search=robustness.search,
        count_void=robustness.count_void,
    )


def _trained_with(record: Mapping[str, Any] | None) -> dict[str, Any] | str | None:
    """Return the training attacker from a checkpoint's record; the current configuration may be of another training."""
    if record is None:
        return UNKNOWN
    attacker = record["trained_with"]
    return upgrade_settings(attacker) if isinstance(attacker, dict) else UNKNOWN if attacker is not None else None


def _reference_miou(
    record: Mapping[str, Any] | None, data: SegmentationData, split: str, window: SlidingWindow | None
) -> float | None:
    """Return the clean miou in a checkpoint's record for the same split, size of images and window; None without."""
    if record is None or record["val"] is None or record["data"] is None:
        return None
    here = {
        "name": type(data).__name__,
        "split": split,
        "image_size": None if data.image_size is None else list(data.image_size),
        "window": None if window is None else window.describe(),
    }
    miou: float | None = record["val"]["miou"] if record["data"] == here else None
    return miou


def read_ids(path: Path) -> list[str]:
    """Read ids of samples, one per line.

    Raises:
        RunError: The file cannot be read.
    """
    try:
        return [line.strip() for line in read_text(path, LIST).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"--ids {path}: cannot be read ({error}); give a text file with one id per line.") from error
