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
    """A run folder or a checkpoint is not where it should be; the message names the remedy."""


class Continuation(NamedTuple):
    """Where a run goes on."""

    version: int | None
    """Of its folder; None for a new one."""
    checkpoint: str | None
    """None: from the start."""
    notes: list[str]
    """What to tell the user."""


def last_run(root: str | Path, experiment: str) -> Continuation:
    """Find what ``--ckpt_path last`` means: the newest version of ``experiment`` under ``root``, its newest checkpoint.

    A damaged checkpoint is passed over for the one before it. Without any checkpoint, as on a first run or when a run
    was killed before its first one, it starts afresh, in the newest version's folder where there is one.

    Raises:
        RunError: There are checkpoints, and all of them are damaged.
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
    """Number of the version that a new run of ``experiment`` under ``root`` gets."""
    return max(_versions(Path(root) / experiment), default=-1) + 1


def _versions(folder: Path) -> dict[int, Path]:
    numbered = ((re.fullmatch(r"version_(\d+)", path.name), path) for path in folder.glob("version_*"))
    return {int(match[1]): path for match, path in numbered if match and path.is_dir()}


def run_folder(checkpoint: str | Path) -> Path:
    """The run that a checkpoint belongs to, or the checkpoint's own folder if it stands alone."""
    folder = Path(checkpoint).resolve().parent
    return folder.parent if folder.name == CHECKPOINTS else folder


def next_free(parent: Path, name: str, suffix: str = "") -> Path:
    """``parent/name_<n><suffix>`` with the first free number; it is not created."""
    return next(path for n in itertools.count() if not (path := parent / f"{name}_{n}{suffix}").exists())
