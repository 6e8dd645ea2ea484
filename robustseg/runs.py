"""Folders of training runs: ``<root>/<experiment>/version_<n>/`` with config.yaml and checkpoints/."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"


class RunError(ValueError):
    """A run folder or a checkpoint is not where it should be; the message names the remedy."""


def last_version(root: str | Path, experiment: str) -> int:
    """Number of the newest version of ``experiment`` under ``root`` that holds a last checkpoint.

    Raises:
        RunError: There is none.
    """
    folder = Path(root) / experiment
    numbered = ((re.fullmatch(r"version_(\d+)", path.name), path) for path in folder.glob("version_*"))
    versions = [int(match[1]) for match, path in numbered if match and (path / CHECKPOINTS / LAST).is_file()]
    if not versions:
        raise RunError(
            f"--ckpt_path last: no {folder}/version_*/{CHECKPOINTS}/{LAST} to resume from: start without --ckpt_path, "
            "or give the experiment and trainer.default_root_dir of the run to resume."
        )
    return max(versions)


def run_folder(checkpoint: str | Path) -> Path:
    """The run that a checkpoint belongs to, or the checkpoint's own folder if it stands alone."""
    folder = Path(checkpoint).resolve().parent
    return folder.parent if folder.name == CHECKPOINTS else folder


def next_free(parent: Path, name: str, suffix: str = "") -> Path:
    """``parent/name_<n><suffix>`` with the first free number; it is not created."""
    return next(path for n in itertools.count() if not (path := parent / f"{name}_{n}{suffix}").exists())
