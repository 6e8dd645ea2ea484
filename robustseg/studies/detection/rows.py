"""The rows of the study of detection as plain JSON, computed from its measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robustseg.detectors import auc
from robustseg.evaluation.attacking import CLEAN
from robustseg.evaluation.figures import number
from robustseg.evaluation.measurements import Measurements
from robustseg.evaluation.record import named
from robustseg.evaluation.records import record_name
from robustseg.evaluation.views import seen_name
from robustseg.metrics import class_iou_from_counts
from robustseg.studies.detection.plan import DetectorRow, Plan, Variant
from robustseg.studies.study import Measured, score_row


def consistency(found: Measurements, attack: str, detector: DetectorRow) -> Tensor | None:
    """Return a detector's N scores of the images under an attack, float64; None if the attack could not run."""
    name = seen_name(attack, detector.view)
    if name in found.refused:
        return None
    return torch.stack(found.values[name])[:, : detector.parts].nanmean(1)


def aimed_at(found: Measurements, variant: Variant) -> Tensor:
    """Mark the images that an attack has pixels to change in, N bool: those with a target other than the true class."""
    return named(found.figures[variant.record])["target_success"].isfinite()


def _columns(found: Measurements, record: str) -> dict[str, Tensor] | None:
    """Return the figures of each image by name; None if the attack could not run."""
    return named(found.figures[record]) if record in found.figures else None


def detection_rows(plan: Plan, source: Measured) -> list[dict[str, Any]]:
    """Compute the AUC of each detector between benign images and those of each attack on one model.

    Returns:
        Rows of ``model``, ``combination``, ``adversary``, ``level`` (σ or K of the attack), ``detector``,
        ``detector_level``, ``auc``, the mean scores ``benign`` and ``adversarial``, ``images`` and ``error``. Images
        without a pixel to change are left out, both as adversarial and as benign ones.
    """
    rows = []
    for detector in plan.detectors:
        benign = consistency(source.found, CLEAN, detector)
        assert benign is not None  # nothing refuses clean images
        for variant in plan.variants:
            if variant.kind not in detector.against:
                continue
            scores = consistency(source.found, variant.record, detector)
            aimed = None if scores is None else aimed_at(source.found, variant)
            mine, theirs = (benign, scores) if aimed is None or scores is None else (benign[aimed], scores[aimed])
            rows.append(
                {
                    "model": source.source,
                    "combination": variant.combination,
                    "adversary": variant.kind,
                    "level": variant.level,
                    "detector": detector.name,
                    "detector_level": detector.level,
                    "auc": None if theirs is None or not len(theirs) else auc(mine, theirs),
                    "benign": number(mine.mean()),
                    "adversarial": None if theirs is None else number(theirs.mean()),
                    "images": len(mine),
                    "error": source.found.refused.get(variant.record),
                }
            )
    return rows


def strength_rows(plan: Plan, source: Measured, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Compute the effect of each attack on the model, and its cost.

    Returns:
        Rows of ``model``, ``combination``, ``adversary``, ``level``, ``target_success``, ``target_success_blurred``
        (behind the attacked blur) and ``rms``, all means over the images, and the entries of
        :func:`~robustseg.studies.study.score_row`.
    """
    rows = []
    for variant in plan.variants:
        figures = _columns(source.found, variant.record)
        rows.append(
            {
                "model": source.source,
                "combination": variant.combination,
                "adversary": variant.kind,
                "level": variant.level,
                "target_success": None if figures is None else number(figures["target_success"].nanmean()),
                "target_success_blurred": _behind_blur(source.found, variant),
                "rms": None if figures is None else number(figures["rms"].mean()),
                **score_row(source.found, variant.record, variant.record, class_names),
            }
        )
    return rows


def curve_rows(plan: Plan, source: Measured) -> list[dict[str, Any]]:
    """Compute the mean consistency at the steps of the attacks that spatial consistency is tested on.

    Returns:
        Rows of ``model``, ``combination``, ``adversary``, ``level``, ``step`` and ``consistency``.
    """
    rows = []
    for variant in plan.variants:
        notes = source.found.values.get(seen_name(variant.record, plan.curve_view))
        if notes is None:
            continue
        means = torch.stack(notes)[aimed_at(source.found, variant)].mean(0)
        for step, value in zip(plan.curve_steps, means, strict=True):
            place = {"model": source.source, "combination": variant.combination, "adversary": variant.kind}
            rows.append({**place, "level": variant.level, "step": step, "consistency": number(value)})
    return rows


def transfer_rows(plan: Plan, sources: Sequence[Measured]) -> list[dict[str, Any]]:
    """Compute the share of the target that each model shows on the images of each attacked model.

    Source: Xiao et al., ECCV 2018, Sec. 5.5 and Fig. 8, over the pixels with a wanted class other than the true one.
    ``target_miou`` is the mean IoU over the classes in the targets, from the counts of all images; the paper leaves out
    the 13 of 19 classes with the lowest IoU instead. ``target_success`` is the mean over the images of the share of
    pixels that show the target.

    Returns:
        Rows of ``combination``, ``source``, ``target``, ``white_box``, ``target_success``, ``target_miou``, ``error``.
    """
    rows = []
    for variant in plan.plain(plan.transferred):
        for source in sources:
            for model in source.models:
                figures = _columns(source.found, record_name(variant.record, model.key))
                rows.append(
                    {
                        "combination": variant.combination,
                        "source": source.source,
                        "target": model.name,
                        "white_box": model.name == source.source,
                        "target_success": None if figures is None else number(figures["target_success"].nanmean()),
                        "target_miou": target_miou(source.found, variant, model.key),
                        "error": source.found.refused.get(variant.record),
                    }
                )
    return rows


def target_miou(found: Measurements, variant: Variant, key: str) -> float | None:
    """Compute the mean IoU between a model's predictions and an attack's target map, see :func:`transfer_rows`."""
    notes = found.values.get(seen_name(variant.record, target_view(key)))
    if notes is None:
        return None
    counts = torch.stack(notes).sum(0).view(3, -1)
    wanted = counts[1] > 0
    return number(class_iou_from_counts(counts)[wanted].mean()) if wanted.any() else None


def blurred_view(sigma: float) -> str:
    """Return the name of the view that measures the target success behind a blur."""
    return f"behind blur {sigma:g}"


def _behind_blur(found: Measurements, variant: Variant) -> float | None:
    notes = found.values.get(seen_name(variant.record, blurred_view(variant.level)))
    return None if notes is None else number(torch.stack(notes).nanmean())


def target_view(key: str) -> str:
    """Return the name of the view that counts a model's predictions of the targets; the attacked one has no key."""
    return f"target {key}".strip()
