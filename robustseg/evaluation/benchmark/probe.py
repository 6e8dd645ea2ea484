"""The probe of the model for an evaluation's trust flags, made once and kept in the evaluation's folder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from robustseg.data import collate
from robustseg.evaluation.attack_stage import AttackStage
from robustseg.evaluation.benchmark.plan import Benchmark
from robustseg.evaluation.checks import probe_model
from robustseg.evaluation.errors import EvaluationError, not_written
from robustseg.evaluation.measurements import Measurements
from robustseg.evaluation.targets import own_predictions
from robustseg.files import write_json
from robustseg.opening.plain import read_json
from robustseg.opening.regular import UnfitFile
from robustseg.opening.seal import SEAL, sealed, unsealed
from robustseg.types import Sample

PROBE = "checking the model"
"""Name of the probe in the progress of an evaluation."""
PROBE_STEPS, PROBE_FORWARDS = 300.0, 450.0
"""The cost of the probe of one image, about: in gradient steps, and forwards with and without a gradient."""


def checks_of(
    benchmark: Benchmark, measured: Measurements, folder: Path, device: torch.device, stage: AttackStage
) -> dict[str, Any] | None:
    """Probe the model, or read the evidence of an earlier probe from the folder.

    Args:
        benchmark: The benchmark, completely measured.
        measured: Its measurements; the probe's attacks are compared with the suite's on the same images.
        folder: Folder of the evaluation.
        device: Device of the probe.
        stage: Display of the evaluation.

    Returns:
        The evidence; None if ``check_images`` is 0 or no image has valid pixels.

    Raises:
        EvaluationError: The evidence cannot be written, or something else than a file is in its place.
    """
    of = benchmark
    if not of.check_images:
        return None
    path = of.checks_file(folder)
    found = kept_evidence(path)
    if found is not None:
        return found
    dataset = of.data.dataset(of.split)
    model = of.model.to(device)
    samples = [dataset[index] for index in of.probe_indices]
    if of.targets == "predictions":
        answers = [own_predictions(model, sample.image[None].to(device))[0].cpu() for sample in samples]
        samples = [sample._replace(target=answer) for sample, answer in zip(samples, answers, strict=True)]
    samples = _alike(samples, of.data.ignore_index)
    if not samples:
        return None
    batch = collate(samples)
    rows = [measured.samples.index(sample) for sample in batch.ids]
    stage.follow(PROBE, len(samples))
    # ε = 0 serves to check an evaluation, and is no threat to probe the model under.
    threats = [attack.threat for attack in of.attacks.values()]
    bounded = [threat for threat in threats if threat is not None and threat.eps > 0]
    probed = probe_model(
        model,
        batch.ids,
        batch.images.to(device),
        batch.targets.to(device),
        eps=str(bounded[0].eps) if bounded else "8/255",
        norm=bounded[0].norm if bounded else "linf",
        num_classes=of.model.num_classes,
        num_scored=of.model.num_scored,
        count_void=of.count_void,
        ignore_index=of.data.ignore_index,
        seed=of.seed,
        attacks=of.attacks,
        reference_miou=of.reference_miou,
        suite={name: measured.counts[name][rows] for name in of.attacks if name in measured.counts},
        batch_size=of.data.val_batch_size,
        on_forward=lambda images: stage.follow_step(images * PROBE_STEPS / PROBE_FORWARDS / len(samples)),
    )
    try:
        write_json(sealed(probed), path)
    except OSError as error:
        raise not_written(path, error) from error
    # Read back, so that a continued evaluation gives the same bytes.
    return kept_evidence(path)


def _alike(samples: Sequence[Sample], ignore_index: int) -> list[Sample]:
    """Return the samples with valid pixels and the most frequent size, since a probe uses one batch."""
    valid = [sample for sample in samples if bool((sample.target != ignore_index).any())]
    sizes = [tuple(sample.target.shape) for sample in valid]
    return [sample for sample, size in zip(valid, sizes, strict=True) if size == max(sizes, key=sizes.count)]


def kept_evidence(path: Path) -> dict[str, Any] | None:
    """Return the evidence in a file; None, with a warning, for one that was altered.

    Raises:
        EvaluationError: Something else than a file is there.
    """
    try:
        found = read_json(path)
        if SEAL not in found:
            raise ValueError(f"it has no {SEAL}")
        return unsealed(found)
    except FileNotFoundError:
        return None
    except UnfitFile as error:
        raise EvaluationError(f"{error}: remove it, and run the same command again.") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        warnings.warn(f"{path} is not used, and the model is probed again ({error}).", stacklevel=2)
        return None
