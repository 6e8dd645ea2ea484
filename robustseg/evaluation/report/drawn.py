"""The plots of one card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustseg.evaluation.card import Card, Figured
from robustseg.evaluation.figures import keys_in
from robustseg.evaluation.report.drawing import Plot
from robustseg.evaluation.report.plots import Bar, Curve, bar_plot, curve_plot
from robustseg.evaluation.report.wording import fraction, plain
from robustseg.evaluation.table import finite

MAX_CLASSES = 40
"""Largest number of classes in the plot per class; the table has all."""


def draw_plots(card: Card, curves: Sequence[Curve] = ()) -> list[Plot]:
    """Draw every plot that the card has figures for: scores, classes, worst attacks and curves."""
    found = [_scores_plot(card)]
    if card.ran:
        found.append(_class_plot(card))
    chosen = _chosen_plot(card)
    if chosen is not None:
        found.append(chosen)
    own = eps_curve(card)
    all_curves = [*([] if own is None else [own]), *curves]
    return found + [curve_plot(f"curve-{place}", curve) for place, curve in enumerate(all_curves)]


def _scores_plot(card: Card) -> Plot:
    names = {"per_image": "worst case per image", "greedy": "greedy worst case"}
    rows: dict[str, Figured] = {"clean": card.clean, **card.ran}
    rows |= {names[kind]: row for kind, row in card.worst_case.kinds()} if card.worst_case is not None else {}
    series = {key: [_bar(row, key) for row in rows.values()] for key in keys_in("plots")}
    return bar_plot("scores", "Scores, clean and under each attack", list(rows), series, "%")


def _class_plot(card: Card) -> Plot:
    clean, ran = card.clean.class_iou, card.ran
    weakest = min(ran, key=lambda name: (ran[name]["miou"] is None, ran[name]["miou"]))
    rows = {"clean": clean, plain(weakest): ran[weakest].class_iou}
    worst = None if card.worst_case is None else card.worst_case.per_image
    if worst is not None and worst.class_iou:
        rows["worst per image"] = worst.class_iou
    names = list(card.data.class_names)
    note = ""
    if len(names) > MAX_CLASSES:
        note = f"The {MAX_CLASSES} of {len(names)} classes that lose most; the table below has all."
        losses = {n: (clean[n] or 0.0) - (rows[plain(weakest)][n] or 0.0) for n in names}
        kept = set(sorted(names, key=lambda n: -losses[n])[:MAX_CLASSES])
        names = [n for n in names if n in kept]
    series = {label: [Bar(_percent(row.get(n))) for n in names] for label, row in rows.items()}
    return bar_plot("classes", "IoU per class, clean and under attack", names, series, "%")._replace(note=note)


def _chosen_plot(card: Card) -> Plot | None:
    """Plot the number of images on which each attack is the worst; return None without worst cases."""
    if card.worst_case is None:
        return None
    labels = {"per_image": "fewest correct pixels", "greedy": "lowest miou (greedy)"}
    rows = {labels[kind]: row.chosen for kind, row in card.worst_case.kinds() if row.chosen}
    if not rows:
        return None
    names = list(card.ran)
    # The greedy choice may leave an image unattacked.
    names += sorted({name for chosen in rows.values() for name in chosen} - set(names))
    series = {label: [Bar(float(chosen.get(n, 0))) for n in names] for label, chosen in rows.items()}
    return bar_plot("chosen", "Images on which each attack is the worst", names, series, "images", digits=0)


def eps_curve(card: Card) -> Curve | None:
    """Return the curve over eps that the checks measured, with the level of chance; None if there is none."""
    found = (card.checks or {}).get("eps_curve")
    if not isinstance(found, Mapping) or not isinstance(found.get("pixel_acc"), Mapping):
        return None
    radii: Any = found.get("eps")
    if not isinstance(radii, Mapping):
        return None
    points = [(radius, key) for key in found["pixel_acc"] if (radius := fraction(radii.get(key))) is not None]
    if not points:
        return None
    series = {"white-box probe": [_percent(found["pixel_acc"][key]) for _, key in points]}
    if finite(found.get("chance")) is not None:
        series["chance"] = [_percent(found["chance"])] * len(points)
    images = len((card.checks or {}).get("ids") or ())
    title = "Pixel accuracy over eps" + (f", {images} probe images" if images else "")
    ticks = [plain(radii[key]) for _, key in points]
    return Curve(title, "eps", "pixel_acc, %", [float(radius) for radius, _ in points], series, ticks)


def _bar(row: Figured, key: str) -> Bar:
    ends = row.interval(key)
    return Bar(_percent(row[key]), None if ends is None else (100 * ends[0], 100 * ends[1]))


def _percent(value: Any) -> float | None:
    share = finite(value)
    return None if share is None else 100 * share
