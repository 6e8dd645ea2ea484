"""Folders of training runs: ``<root>/<experiment>/version_<n>/`` with config.yaml and checkpoints/."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import NamedTuple

from robustseg.resume.callback import CHECKPOINTS as CHECKPOINTS
from robustseg.resume.checkpoint_files import checkpoints, newest_usable

LAST = "last.ckpt"


class RunError(ValueError):
    """Error for a run folder or a checkpoint that is missing or misplaced; the message names the remedy."""


class Continuation(NamedTuple):
    """Start of a run: its version, its checkpoint and notes for the user."""

    version: int | None
    """Version of the run's folder; None for a new one."""
    checkpoint: str | None
    """Checkpoint to continue; None for a run from the start."""
    notes: list[str]
    """Lines for the user."""


def last_run(root: str | Path, experiment: str) -> Continuation:
    """Resolve ``--ckpt_path last``: the newest checkpoint of the newest version of ``experiment`` under ``root``.

    Damaged checkpoints are skipped for older ones. Without any checkpoint, on a first run or if a run was killed before
    its first one, training starts anew, in the newest version's folder if there is one.

    Raises:
        RunError: All checkpoints are damaged.
    """
    folder = Path(root) / experiment
    versions = _versions(folder)
    newest_version = max(versions, default=None)
    if newest_version is not None:
        kept = versions[newest_version] / CHECKPOINTS
        newest, notes = newest_usable(kept)
        if newest is not None:
            return Continuation(newest_version, str(newest), [*notes, f"resuming from {newest}"])
        if checkpoints(kept):
            raise RunError(
                f"--ckpt_path last: no checkpoint in {kept} can be used ({'; '.join(notes)}): restore one from a copy, "
                "or start a new run without --ckpt_path."
            )
        if (kept / LAST).is_file():
            return Continuation(newest_version, str(kept / LAST), [f"resuming from {kept / LAST}"])
    where = folder / ("version_*" if newest_version is None else f"version_{newest_version}") / CHECKPOINTS
    start = f"--ckpt_path last: there is no checkpoint in {where} yet: starting from the beginning"
    return Continuation(newest_version, None, [start])


def next_version(root: str | Path, experiment: str) -> int:
    """Return the version number of a new run of ``experiment`` under ``root``."""
    return max(_versions(Path(root) / experiment), default=-1) + 1


def _versions(folder: Path) -> dict[int, Path]:
    numbered = ((re.fullmatch(r"version_(\d+)", path.name), path) for path in folder.glob("version_*"))
    return {int(match[1]): path for match, path in numbered if match and path.is_dir()}


def run_folder(checkpoint: str | Path) -> Path:
    """Return the folder of a checkpoint's run, or the checkpoint's own folder outside of a run."""
    folder = Path(checkpoint).resolve().parent
    return folder.parent if folder.name == CHECKPOINTS else folder


def next_free(parent: Path, name: str, suffix: str = "") -> Path:
    """Return ``parent/name_<n><suffix>`` with the first free number; it is not created."""
    return next(path for n in itertools.count() if not (path := parent / f"{name}_{n}{suffix}").exists())
