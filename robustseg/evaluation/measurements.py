"""Measurements of an evaluation as they are read back from its folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustseg.evaluation.attacking import CLEAN
from robustseg.evaluation.errors import IncompleteError
from robustseg.evaluation.record import COLUMNS
from robustseg.evaluation.records import answers_to, refusal, refuse_others, rounded_name, unique_records
from robustseg.evaluation.store import streams
from robustseg.evaluation.views import View, seen_name, view_settings
from robustseg.metrics import class_counts


class Measurements(NamedTuple):
    """The measurements of the requested samples and attacks."""

    samples: list[str]
    """N ids."""
    counts: dict[str, Tensor]
    """By name of records, "clean" first: N×3×C int64, see :func:`~robustseg.metrics.class_counts`."""
    figures: dict[str, Tensor]
    """By name of records: N×K float64, columns :data:`~robustseg.evaluation.record.COLUMNS`."""
    refused: dict[str, str]
    """By name of records: the reason why the attack could not be run, for those that are incomplete because of it."""
    batch_sizes: list[int]
    """Sizes of the batches that records were computed in, each once."""
    about: list[dict[str, Any]]
    """Facts from the writers, each different one once."""
    values: Mapping[str, list[Tensor]] = MappingProxyType({})
    """By name of records: the N vectors of a traced attack or of a view."""
    rounded: Mapping[str, Tensor] = MappingProxyType({})
    """By name of the attack: N×3×C counts of the images after rounding to 8 bit. Attacks without them on some image, as
    in folders of version 0.1, are left out."""


def read_measurements(
    folder: Path,
    protocol: str,
    samples: Sequence[str],
    attacks: Mapping[str, Mapping[str, Any]],
    num_scored: int,
    scored_on: Sequence[str] = ("",),
    views: Mapping[str, View] | None = None,
    for_itself: Collection[str] = (),
) -> Measurements:
    """Read measurements from an evaluation's folder.

    Args:
        folder: Folder of the evaluation.
        protocol: Digest of the evaluation's facts.
        samples: N ids of the requested samples.
        attacks: Settings of the requested attacks, by name.
        num_scored: Number of classes C that are scored, the first ones.
        scored_on: Names of the scored models; "" is the attacked one.
        views: Views whose records are requested as well, by name.
        for_itself: Attacks whose images only the attacked model was scored on.

    Raises:
        IncompleteError: Records are missing; the message names them.
        EvaluationError: Records contradict one another, or belong to another evaluation.
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
    rounded = {rounded_name(attack): attack for attack in attacks}
    counts = {name: torch.zeros(len(samples), 3, num_scored, dtype=torch.int64) for name in (*answers, *rounded)}
    figures = {name: torch.zeros(len(samples), len(COLUMNS), dtype=torch.float64) for name in answers}
    there = {name: torch.zeros(len(samples), dtype=torch.bool) for name in (*attack_of, *rounded)}
    sizes, values = set(), dict[str, dict[int, Tensor]]()
    for record in unique_records(found):
        row = places.get(record.sample)
        if row is None or record.attack not in there:
            continue
        if record.attack in counts:
            counts[record.attack][row] = class_counts(record.confusion, num_scored)
        if record.attack in answers:
            figures[record.attack][row] = record.figures
        there[record.attack][row] = True
        if record.values is not None:
            values.setdefault(record.attack, {})[row] = record.values
        sizes.add(record.batch_size)
    stored = {attack: counts.pop(name) for name, attack in rounded.items()}
    stored = {attack: of for attack, of in stored.items() if there[rounded_name(attack)].all()}
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
    return Measurements(list(samples), counts, figures, refused, sorted(sizes), about, ordered, stored)


def _incomplete(folder: Path, lacking: Mapping[str, list[str]], images: int) -> str:
    parts = [f"{name} lacks {len(missing)} (first {missing[0]})" for name, missing in lacking.items()]
    shown = ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
    return (
        f"{folder}: not complete, of {images} images {shown}. Run the same evaluation again, or the shards that are "
        "missing, to measure the rest; what is there is kept."
    )
