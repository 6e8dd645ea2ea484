"""Tables and plots of the study of detection."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from robustseg.evaluation.attacking import CLEAN
from robustseg.evaluation.report.drawing import Plot
from robustseg.evaluation.report.maps import Panel, map_plot
from robustseg.evaluation.report.plots import Curve, curve_plot, heat_plot
from robustseg.evaluation.report.wording import NOTHING, count, setting
from robustseg.evaluation.report.wording import percent as shown
from robustseg.evaluation.table import Table
from robustseg.evaluation.views import seen_name
from robustseg.studies.detection.plan import ADVERSARIES, SCALE, SPATIAL, Kind, Plan
from robustseg.studies.detection.rows import curve_rows, detection_rows, strength_rows, transfer_rows
from robustseg.studies.study import Measured, StudyResult, percent

_OWN: tuple[Kind, ...] = ("blurred", "patches")
"""The paper's adaptive attacks."""
Rows = Sequence[Mapping[str, Any]]


def detection_result(
    name: str,
    plan: Plan,
    sources: Sequence[Measured],
    class_names: Sequence[str],
    highest_entropy: float,
    views: Mapping[str, Mapping[str, Any]],
) -> StudyResult:
    """Build all tables and plots.

    Args:
        name: Name of the study.
        plan: The plan of the study.
        sources: Measurements on each attacked model's images.
        class_names: Names of the C classes.
        highest_entropy: Upper end of the maps' colour scale, in nats.
        views: Settings of the detectors and of the other views, for the record.
    """
    guarded = [source for source in sources if plan.is_detected_on(source.source)]
    rows = [row for source in guarded for row in detection_rows(plan, source)]
    strengths = [row for source in guarded for row in strength_rows(plan, source, class_names)]
    curves = [row for source in guarded for row in curve_rows(plan, source)]
    transfer = transfer_rows(plan, sources) if len(sources[0].models) > 1 else []
    plots: list[Plot] = []
    for place, source in enumerate(guarded):
        mine = [[row for row in some if row["model"] == source.source] for some in (rows, curves)]
        where = f", {source.source}" if len(guarded) > 1 else ""
        plots += _matrices(f"{name}-{place}", where, plan, mine[0])
        plots += _curves(f"{name}-{place}", where, plan, mine[1])
        plots += _maps(f"{name}-{place}", where, plan, source, highest_entropy)
    plots += _transfer_plots(name, plan, transfer)
    tables = [*_auc_tables(plan, rows), _strength_table(strengths)] if guarded else []
    tables += _transfer_tables(plan, transfer)
    settings = [[what, ", ".join(f"{k} = {setting(v)}" for k, v in each.items())] for what, each in views.items()]
    tables.append(Table.of("What looked at the images", ["view", "settings"], settings, 2))
    return StudyResult(
        "Detection of adversarial images by consistency",
        "AUC is the chance that an adversarial image is less consistent than a benign one: 100 % for a perfect "
        "detector, 50 % for one that knows nothing, less for one that takes adversarial images for the benign ones. An "
        "attack that does not reach its target says nothing about a detector: see what the attacks did. In the tables "
        "an adaptive attack is held against the detector of its own σ or K, in the matrices against all.",
        {},
        rows,
        plots,
        tables,
        extra={"attacks_did": strengths, "curves": curves, "transfer": transfer, "views": views},
    )


def _auc_tables(plan: Plan, rows: Rows) -> Iterator[Table]:
    """Yield the AUC like Table 1 of the paper, and a table for attacks beyond the paper's."""
    for title, kinds in (("AUC, %", _OWN), ("AUC under attacks beyond the paper's, %", ("both", "redrawn"))):
        lines = []
        cells = {(r["model"], r["detector"], r["combination"], r["adversary"], r["level"]): r for r in rows}
        models = list(dict.fromkeys(row["model"] for row in rows))
        adaptive = [c for c in plan.combinations if any(v.combination == c and v.kind in kinds for v in plan.variants)]
        if kinds is not _OWN and not adaptive:
            continue
        for model in models:
            for detector in plan.detectors:
                plain = [cells.get((model, detector.name, c, "plain", 0)) for c in plan.combinations]
                (kind,) = [kind for kind in kinds if kind in detector.against]
                own = [cells.get((model, detector.name, c, kind, detector.level)) for c in adaptive]
                found = [*(plain if kinds is _OWN else []), *own]
                if any(found):
                    lines.append([model, detector.name, *(NOTHING if r is None else shown(r["auc"]) for r in found)])
        headings = [*(plan.combinations if kinds is _OWN else []), *(f"{c}, adaptive" for c in adaptive)]
        yield Table.of(title, ["model", "detector", *headings], lines, 2)


def _strength_table(strengths: Rows) -> Table:
    headings = [
        "model",
        "images aim at",
        "adversary",
        "σ or K",
        "target_success, %",
        "behind its blur, %",
        "miou, %",
        "rms",
        "forwards",
    ]
    rows = [
        [
            row["model"],
            row["combination"],
            ADVERSARIES[row["adversary"]],
            NOTHING if row["adversary"] == "plain" else f"{row['level']:g}",
            "could not run" if row["error"] else shown(row["target_success"]),
            shown(row["target_success_blurred"]),
            shown(row["miou"]),
            NOTHING if row["rms"] is None else f"{row['rms']:.4f}",
            NOTHING if row["forwards"] is None else count(row["forwards"]),
        ]
        for row in strengths
    ]
    return Table.of("What the attacks did", headings, rows, 3)


def _matrices(name: str, where: str, plan: Plan, rows: Rows) -> Iterator[Plot]:
    """Plot the AUC of every detector under every attack, for each combination with adaptive attacks: Fig. 7."""
    for place, combination in enumerate(plan.combinations):
        mine = [row for row in rows if row["combination"] == combination]
        for family, kinds in (("spatial", SPATIAL), ("scale", SCALE)):
            detectors = [each for each in plan.detectors if each.against == kinds]
            variants = [v for v in plan.variants if v.combination == combination and v.kind in kinds]
            if len(variants) < 2 or not detectors:
                continue
            variants.sort(key=lambda variant: kinds.index(variant.kind))
            cells = {(row["detector"], row["adversary"], row["level"]): percent(row, "auc") for row in mine}
            values = [[cells[d.name, v.kind, v.level] for v in variants] for d in detectors]
            columns = [_adversary(v.kind, v.level) for v in variants]
            labels = ("detector", "adversary")
            title = f"AUC of {family} consistency under {combination}{where}, %"
            names = [d.name for d in detectors]
            yield heat_plot(f"{name}-{family}-{place}", title, names, columns, values, labels, 100.0)


def _adversary(kind: Kind, level: float) -> str:
    short = {"plain": "plain", "blurred": "σ", "both": "both", "patches": "K", "redrawn": "new K"}[kind]
    return short if kind == "plain" else f"{short} {level:g}"


def _curves(name: str, where: str, plan: Plan, curves: Rows) -> Iterator[Plot]:
    """Plot the consistency over the steps: Fig. 6 (b). The first step is at the clean images."""
    drawn: dict[str, dict[str, list[float | None]]] = {}
    for row in curves:
        combination = row["combination"]
        if row["adversary"] == "plain":
            drawn.setdefault("plain attacks", {}).setdefault(combination, []).append(row["consistency"])
        if any(v.combination == combination and v.kind in SPATIAL[1:] for v in plan.variants):
            line = _adversary(row["adversary"], row["level"])
            drawn.setdefault(combination, {}).setdefault(line, []).append(row["consistency"])
    for place, (what, lines) in enumerate(drawn.items()):
        title = f"miou of overlaps under {what}{where}"
        curve = Curve(title, "step", "mean over the images", list(plan.curve_steps), lines)
        yield curve_plot(f"{name}-curve-{place}", curve)


def _maps(name: str, where: str, plan: Plan, source: Measured, highest: float) -> Iterator[Plot]:
    """Plot the self-entropy of the pixels of some images: Fig. 3."""
    clean = source.found.values.get(seen_name(CLEAN, plan.entropy_view))
    if clean is None:
        return
    rows = []
    for place, note in enumerate(clean):
        if not len(note):
            continue
        entropy, image = _map_and_image(note)
        assert image is not None  # that of a clean image comes with it
        panels = [Panel("image", image), Panel("benign", entropy)]
        for variant in plan.plain():
            notes = source.found.values.get(seen_name(variant.record, plan.entropy_view))
            if notes is not None:
                panels.append(Panel(variant.combination, _map_and_image(notes[place])[0]))
        rows.append(panels)
    yield map_plot(f"{name}-entropy", f"self-entropy of the pixels{where}", rows, highest, "nats")


def _map_and_image(note: Tensor) -> tuple[Tensor, Tensor | None]:
    height, width = int(note[0]), int(note[1])
    pixels = height * width
    image = note[2 + pixels :]
    return note[2 : 2 + pixels].view(height, width), image.view(3, height, width) if len(image) else None


def _transfer_plots(name: str, plan: Plan, transfer: Rows) -> Iterator[Plot]:
    """Plot one matrix for each combination and figure: Fig. 8."""
    for key, title in (("target_miou", "normalised miou"), ("target_success", "pixel success rate")):
        for place, combination in enumerate(plan.transferred if transfer else []):
            sources, targets, cells = _matrix(transfer, combination)
            values = [[percent(cells[s, t], key) for t in targets] for s in sources]
            own = [(row, targets.index(s)) for row, s in enumerate(sources) if s in targets]
            what = f"{title} of the target map, {combination}, %"
            labels = ("made on", "shown to")
            plot_name = f"{name}-{key.replace('_', '-')}-{place}"
            yield heat_plot(plot_name, what, sources, targets, values, labels, 100.0, own)


def _transfer_tables(plan: Plan, transfer: Rows) -> Iterator[Table]:
    for combination in plan.transferred if transfer else []:
        sources, targets, cells = _matrix(transfer, combination)
        lines = [
            [s, *(f"{shown(cells[s, t]['target_miou'])} / {shown(cells[s, t]['target_success'])}" for t in targets)]
            for s in sources
        ]
        title = f"Transfer of {combination}: normalised miou of the target map / pixel success rate, %"
        yield Table.of(title, ["made on", *targets], lines)


def _matrix(transfer: Rows, combination: str) -> tuple[list[str], list[str], dict[tuple[str, str], Mapping[str, Any]]]:
    cells = {(row["source"], row["target"]): row for row in transfer if row["combination"] == combination}
    return list(dict.fromkeys(s for s, _ in cells)), list(dict.fromkeys(t for _, t in cells)), cells


def highest_entropy(k: int, num_classes: int) -> float:
    """Return the highest self-entropy of ``k`` votes of a pixel, in nats; 1 in place of 0."""
    return math.log(min(k, num_classes)) or 1.0
