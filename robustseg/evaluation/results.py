"""The record of an evaluation: a table for people, JSON for everything else."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from robustseg import __version__
from robustseg.attacks import Attack
from robustseg.evaluation.evaluator import CLEAN
from robustseg.evaluation.record import FOOLED

Scores = Mapping[str, Mapping[str, Tensor]]

_PERCENT = ("pixel_acc", "miou", "image_miou", "mean_acc")
_COST = {"forwards": 0, "backwards": 0, "seconds": 2}
"""Columns of what an image cost, with their digits."""
_RECORDED = ("pytorch-lightning", "timm", "numpy")


def scores_table(scores: Scores, title: str) -> Table:
    """A terminal table, one row per attack: scores in percent, and what an image cost."""
    table = Table(title=title, title_justify="left")
    table.add_column("attack")
    aimed = any(float(row.get("target_success", math.nan)) >= 0 for row in scores.values())
    columns = (*_PERCENT, "target_success") if aimed else _PERCENT
    for column in (*columns, *_COST):
        table.add_column(column, justify="right")
    for name, row in scores.items():
        percent = [_shown(100 * float(row.get(column, math.nan)), 2) for column in columns]
        cost = [_shown(float(row[column]), digits) if column in row else "" for column, digits in _COST.items()]
        table.add_row(name, *percent, *cost)
    return table


def distances_table(scores: Scores, names: Iterable[str]) -> Table:
    """A terminal table of how far attacks ``names`` went to fool an image, for those that look for the smallest way."""
    title = f"perturbations that fool {FOOLED:.0%} of an image's valid pixels, or what an attack's success asks for"
    table = Table(title=title, title_justify="left")
    for column in ("attack", "images fooled", "median linf", "median l2"):
        table.add_column(column, justify="left" if column == "attack" else "right")
    for name in names:
        row = scores[name]
        linf, l2 = float(row["fooled_linf"]), float(row["fooled_l2"])
        share = f"{100 * float(row['fooled_share']):.1f} %"
        table.add_row(name, share, "–" if math.isnan(linf) else f"{255 * linf:.2f}/255", _shown(l2, 3))
    return table


def _shown(figure: float, digits: int) -> str:
    return "–" if math.isnan(figure) else f"{figure:.{digits}f}"


def results_record(
    scores: Scores, attacks: Mapping[str, Attack], class_names: Sequence[str], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that says what the figures are figures of; JSON-serialisable.

    Args:
        scores: From :meth:`RobustnessEvaluator.compute`.
        attacks: The attacks by name.
        class_names: Name of each class.
        about: Further facts: data set, split, checkpoint, seed ….
    """
    results = {}
    for name, row in scores.items():
        figures: dict[str, Any] = {key: _number(value) for key, value in row.items() if key != "class_iou"}
        for count in ("images", "without_valid_pixels"):
            if count in row:
                figures[count] = int(row[count])
        figures["class_iou"] = dict(zip(class_names, map(_number, row["class_iou"]), strict=True))
        results[name] = figures if name == CLEAN else {"settings": attacks[name].describe(), **figures}
    versions = {"robustseg": __version__, "python": platform.python_version(), "torch": torch.__version__}
    versions |= {package: version(package) for package in _RECORDED}
    return {**about, "versions": versions, "results": results}


def write_json(record: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write ``record`` so that ``path`` holds either its old content or all of the new one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _number(value: Tensor) -> float | None:
    number = float(value)
    return None if math.isnan(number) else number
