"""Facts about the model, the data and the software of an evaluation."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import robustseg
from robustseg.data import SegmentationData
from robustseg.data.base import Split
from robustseg.models import SegmentationModel

_RECORDED = ("pytorch-lightning", "timm", "numpy", "pyarrow")


def model_facts(
    model: SegmentationModel, settings: Mapping[str, Any], checkpoint: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Describe a model for a card.

    Args:
        model: The model with its weights.
        settings: Constructor arguments of its network.
        checkpoint: ``path`` and ``sha256`` of the file with the weights, ``averaged`` if they are averaged, and
            ``layout`` if its tensors have another project's names; None without a file.
    """
    layout = None if checkpoint is None else checkpoint.get("layout")
    return {
        "network": type(model.network).__name__,
        "settings": dict(settings),
        "checkpoint": None if checkpoint is None else Path(checkpoint["path"]).name,
        "sha256": None if checkpoint is None else checkpoint["sha256"],
        "weights": "averaged" if checkpoint is not None and checkpoint.get("averaged") else "raw",
        **({"layout": layout} if layout else {}),
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "window": None if model.window is None else model.window.describe(),
        **({"execution": model.execution} if model.execution else {}),
        **({"outputs": model.outputs} if model.outputs else {}),
    }


def data_facts(data: SegmentationData, split: Split) -> dict[str, Any]:
    """Describe the data for a card, without the choice of scored samples.

    Raises:
        DataError: A sample is missing or cannot be used.
    """
    return {
        "name": type(data).__name__,
        "split": split,
        "split_images": len(data.sample_ids(split)),
        "sha256": data.digest(split),
        "class_names": list(data.class_names),
        "ignore_index": data.ignore_index,
        "image_size": None if data.image_size is None else list(data.image_size),
    }


def versions() -> dict[str, str]:
    """Return the versions of the software that a figure may depend on."""
    packages = {"robustseg": robustseg.__version__, "python": platform.python_version(), "torch": torch.__version__}
    return packages | {package: version(package) for package in _RECORDED}


def commit() -> str | None:
    """Return the last commit of the imported package, with a note of later changes; None outside a git checkout."""
    last, changes = _git("log", "-1", "--format=%H", "--", "."), _git("status", "--porcelain", "--", ".")
    return f"{last} and changes since" if last and changes else last or None


def _git(*arguments: str) -> str | None:
    package = Path(robustseg.__file__).parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(package), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
