"""The result card: everything that one evaluation found, and what it is the result of, as one JSON object."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustseg.evaluation.checks import overall, trust_flags
from robustseg.evaluation.errors import IncompleteError
from robustseg.evaluation.evaluator import CLEAN
from robustseg.evaluation.figures import keys_in
from robustseg.evaluation.record import COLUMNS, FOOLED, summarise
from robustseg.evaluation.records import answers_to, refusal, refuse_others, unique_records
from robustseg.evaluation.store import streams
from robustseg.evaluation.views import View, seen_name, view_settings
from robustseg.metrics import (
    class_counts,
    class_iou_from_counts,
    confidence_intervals,
    greedy_worst_case,
    miou_from_counts,
    pixel_acc_from_counts,
    scores_from_counts,
    worst_case_images,
)

CARD = "card.json"
FORMAT = 1
"""Of the card."""


class Measurements(NamedTuple):
    """All that was measured, of the samples and attacks that were asked for."""

    samples: list[str]
    """N ids."""
    counts: dict[str, Tensor]
    """Per name of records, "clean" first: N×3×C int64, see :func:`~robustseg.metrics.class_counts`."""
    figures: dict[str, Tensor]
    """Likewise: N×K float64, columns :data:`~robustseg.evaluation.record.COLUMNS`."""
    refused: dict[str, str]
    """Why an attack could not be run, for those that are not complete because of it."""
    batch_sizes: list[int]
    """Sizes of the batches that anything was computed in."""
    about: list[dict[str, Any]]
    """What the writers said of themselves, each different one once."""
    values: Mapping[str, list[Tensor]] = MappingProxyType({})
    """Per name of records: the N vectors of an attack that was watched, or of a view."""


def read_measurements(
    folder: Path,
    protocol: str,
    samples: Sequence[str],
    attacks: Mapping[str, Mapping[str, Any]],
    num_classes: int,
    scored_on: Sequence[str] = ("",),
    views: Mapping[str, View] | None = None,
    for_itself: Collection[str] = (),
) -> Measurements:
    """Read an evaluation's folder.

    Args:
        folder: Of the evaluation.
        protocol: Digest of its facts.
        samples: N ids that are wanted.
        attacks: Settings of the attacks that are wanted, by name.
        num_classes: C.
        scored_on: Names of the models that answered, where that was not the attacked one.
        views: By name, whose notes are wanted as well.
        for_itself: Attacks whose images only the attacked model was shown.

    Raises:
        IncompleteError: Something is missing; it says what.
        EvaluationError: Records contradict one another, or are of something else.
    """
    found = streams(folder)
    views = views or {}
    refuse_others(found, protocol, {**attacks, **view_settings(views)})
    places = {sample: row for row, sample in enumerate(samples)}
    answers = {record: attack for attack in (CLEAN, *attacks) for record in answers_to(attack, scored_on, for_itself)}
    attack_of = answers | {
        seen_name(attack, name): attack
        for attack in (CLEAN, *attacks)
        for name, view in views.items()
        if view.wants(attack)
    }
    counts = {name: torch.zeros(len(samples), 3, num_classes, dtype=torch.int64) for name in answers}
    figures = {name: torch.zeros(len(samples), len(COLUMNS), dtype=torch.float64) for name in answers}
    there = {name: torch.zeros(len(samples), dtype=torch.bool) for name in attack_of}
    sizes, values = set(), dict[str, dict[int, Tensor]]()
    for record in unique_records(found):
        row = places.get(record.sample)
        if row is None or record.attack not in there:
            continue
        if record.attack in answers:
            counts[record.attack][row] = class_counts(record.confusion)
            figures[record.attack][row] = record.figures
        there[record.attack][row] = True
        if record.values is not None:
            values.setdefault(record.attack, {})[row] = record.values
        sizes.add(record.batch_size)
    unfinished = [name for name in attack_of if not there[name].all()]
    refused = {name: reason for name in unfinished if (reason := refusal(folder, attack_of[name]))}
    lacking = {n: [s for s in samples if not there[n][places[s]]] for n in unfinished if n not in refused}
    if lacking:
        raise IncompleteError(_incomplete(folder, lacking, len(samples)))
    for name in refused:
        counts.pop(name, None)
        figures.pop(name, None)
    about: list[dict[str, Any]] = []
    for stream in found:
        facts = {key: value for key, value in stream.about.items() if key not in ("attacks", "protocol")}
        if facts not in about:
            about.append(facts)
    ordered = {name: [rows[row] for row in sorted(rows)] for name, rows in values.items() if name not in refused}
    return Measurements(list(samples), counts, figures, refused, sorted(sizes), about, ordered)


def _incomplete(folder: Path, lacking: Mapping[str, list[str]], images: int) -> str:
    parts = [f"{name} lacks {len(missing)} (first {missing[0]})" for name, missing in lacking.items()]
    shown = ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
    return (
        f"{folder}: not complete, of {images} images {shown}. Run the same evaluation again, or the shards that are "
        "missing, to measure the rest; what is there is kept."
    )


def build_card(
    about: Mapping[str, Any],
    measured: Measurements,
    attacks: Mapping[str, Mapping[str, Any]],
    checks: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The result card of an evaluation, JSON-serialisable; NaN is None.

    It is a function of what was evaluated: no times, dates or folders.

    Args:
        about: ``model``, ``data``, ``protocol``, ``versions`` and ``commit``.
        measured: Of all attacks.
        attacks: Their settings, ``describe()``, by name.
        checks: Evidence of :func:`~robustseg.evaluation.checks.probe_model`, or None if the model was not probed.
    """
    class_names = about["data"]["class_names"]
    clean = scores(measured.counts[CLEAN], class_names)
    rows: dict[str, Any] = {}
    for name, settings in attacks.items():
        if name in measured.refused:
            rows[name] = {"settings": dict(settings), "error": measured.refused[name]}
            continue
        robust = scores(measured.counts[name], class_names)
        summary = summarise(measured.figures[name], float(settings.get("success") or FOOLED))
        del summary["seconds"]
        rows[name] = {
            "settings": dict(settings),
            "error": None,
            **robust,
            "gap": {key: _gap(clean[key], robust[key]) for key in keys_in("gap")},
            **{key: number(value) for key, value in summary.items()},
            "without_valid_pixels": int(summary["without_valid_pixels"]),
        }
    eps, norm = _shared_threat(attacks)
    bounded = [name for name in rows if name not in measured.refused and attacks[name].get("eps") is not None]
    card = {
        "format": FORMAT,
        **about,
        "protocol": {
            **about["protocol"],
            "norm": norm,
            "eps": eps,
            "batch_sizes": measured.batch_sizes,
        },
        "clean": clean,
        "attacks": rows,
        "worst_case": worst_cases(measured, bounded, class_names) if eps is not None and bounded else None,
        "checks": None if checks is None else dict(checks),
    }
    flags = trust_flags(card)
    return {**card, "flags": [flag.as_dict() for flag in flags], "verdict": overall(flags)}


def scores(counts: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """Figures of a data set from the counts of its images, N×3×C."""
    total = counts.sum(0)
    return {
        **{key: number(value) for key, value in scores_from_counts(counts).items()},
        "class_iou": dict(zip(class_names, map(number, class_iou_from_counts(total)), strict=True)),
        "images": len(counts),
        "confidence": {name: [number(low), number(high)] for name, (low, high) in confidence_intervals(counts).items()},
    }


def worst_cases(measured: Measurements, names: Sequence[str], class_names: Sequence[str]) -> dict[str, Any]:
    """The worst of several attacks for each image, and the greedy worst case of the data set's mIoU."""
    counts = torch.stack([measured.counts[name] for name in names])
    each, greedy = worst_case_images(counts), greedy_worst_case(counts)
    order = torch.arange(counts.shape[1])
    return {
        "per_image": {**scores(counts[each.attack, order], class_names), "chosen": _chosen(each.attack, names)},
        "greedy": {
            "miou": number(miou_from_counts(greedy.counts)),
            "pixel_acc": number(pixel_acc_from_counts(greedy.counts)),
            "chosen": _chosen(greedy.attack, names),
        },
    }


def number(value: Tensor | float) -> float | None:
    """As JSON has it: NaN is null."""
    figure = float(value)
    return None if math.isnan(figure) else figure


def _gap(clean: float | None, robust: float | None) -> float | None:
    return None if clean is None or robust is None else clean - robust


def _chosen(attack: Tensor, names: Sequence[str]) -> dict[str, int]:
    return {name: int((attack == index).sum()) for index, name in enumerate(names)}


def _shared_threat(attacks: Mapping[str, Mapping[str, Any]]) -> tuple[str | None, str | None]:
    """ε and norm of the attacks that have one, where they agree."""
    threats = {(s["eps"], s.get("norm")) for s in attacks.values() if s.get("eps") is not None}
    return next(iter(threats)) if len(threats) == 1 else (None, None)
