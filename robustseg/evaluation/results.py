"""The record of an evaluation: a table for people, JSON for everything else."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from robustseg import __version__
from robustseg.attacks import Attack
from robustseg.evaluation.evaluator import CLEAN

Scores = Mapping[str, Mapping[str, Tensor]]

_RECORDED = ("pytorch-lightning", "timm", "numpy")


def scores_table(scores: Scores, title: str) -> Table:
    """A terminal table in percent, one row per attack."""
    table = Table(title=title, title_justify="left")
    table.add_column("attack")
    for column in ("pixel_acc", "miou", "image_miou", "mean_acc"):
        table.add_column(column, justify="right")
    for name, row in scores.items():
        figures = (float(row[column]) for column in ("pixel_acc", "miou", "image_miou", "mean_acc"))
        table.add_row(name, *("–" if math.isnan(figure) else f"{100 * figure:.2f}" for figure in figures))
    return table


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
        figures["images"] = int(row["images"])
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
