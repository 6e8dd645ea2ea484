"""Checkpoint files: atomic writes, and the retention of the newest ones.

A folder holds ``step_00000123.ckpt`` files, with a checksum of each record inside, and ``last.ckpt``, a link to the
newest. If the writing process is killed at any time, earlier files are still intact, and every file with its final name
is complete. Files ``*.ckpt.sha256`` are from version 0.1: they are never read, and removed with their checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from robustseg.files import TemporaryFile, remedy, remove_left_over, replace, sync_file, sync_folder
from robustseg.resume.checkpoint_reading import CheckpointError, damage, unreadable

__all__ = [
    "CheckpointError",
    "checkpoint_name",
    "checkpoints",
    "damage",
    "keep_newest",
    "link_last",
    "newest_usable",
    "write_checkpoint",
]

LAST = "last.ckpt"
_NAME = re.compile(r"step_([0-9]+)\.ckpt")


def checkpoint_name(step: int) -> str:
    """Return the file name of the checkpoint after ``step`` optimiser steps.

    Raises:
        ValueError: ``step`` is negative.
    """
    if step < 0:
        raise ValueError(f"step = {step} is negative: it counts optimiser steps.")
    return f"step_{step:08d}.ckpt"


def is_step_checkpoint(path: Path) -> bool:
    """Return whether a file has a name of :func:`checkpoint_name`."""
    return _NAME.fullmatch(path.name) is not None


def make_folder(folder: Path) -> None:
    """Create the folder of the checkpoints and its parents if they do not exist.

    Raises:
        CheckpointError: It cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be made ({error.strerror or error}): {remedy(error)}, or give another "
            "trainer.default_root_dir."
        ) from error


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint atomically: ``path`` is complete as soon as it exists.

    Temporary files of killed writers in the same folder are removed first.

    Args:
        content: Tensors and plain values; other objects are refused, since they could not be read again.
        path: The file, in an existing folder; an existing file is replaced.

    Raises:
        CheckpointError: It cannot be written (a full disk, a quota, a read-only file system …); ``path`` is unchanged.
    """
    write_file(lambda file: serialise(content, file), path)


def write_file(fill: Callable[[TemporaryFile], object], path: Path) -> None:
    """Write a file as :func:`write_checkpoint` does, with a function that writes the content.

    Args:
        fill: Function that writes the content to its argument.
        path: The file, in an existing folder; an existing file is replaced.

    Raises:
        CheckpointError: The file cannot be written; ``path`` is unchanged.
    """
    remove_left_over(path.parent)
    try:
        with TemporaryFile(path) as file:
            try:
                fill(file)
            except Exception:
                if file.failure is not None:
                    raise file.failure from None
                raise
            file.sync()
            if (reason := unreadable(file.path)) is not None:
                raise CheckpointError(
                    f"{path.name} would not be readable again: it {reason}. Keep everything else out of "
                    "hyper-parameters and of what state_dict() and on_save_checkpoint() return. Nothing was written."
                )
            replace(file.path, path)
            sync_folder(path.parent)
            _remove_old_checksum(path)
    except OSError as error:
        raise _cannot_write(path, error) from error


def serialise(content: dict[str, Any], file: Any) -> None:
    """Save with ``torch.save``, with a clear error for objects that cannot be saved.

    Raises:
        CheckpointError: An object in ``content`` cannot be pickled.
        OSError: The file cannot be written.
    """
    try:
        torch.save(content, file)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"the state cannot be saved ({error}): keep everything but tensors and plain values out of "
            "hyper-parameters and of what state_dict() and on_save_checkpoint() return."
        ) from error


def checkpoints(folder: Path) -> list[Path]:
    """Return the ``step_*.ckpt`` files of a folder, the largest step first, without links and temporary files.

    Raises:
        CheckpointError: The folder cannot be read. A folder that does not exist counts as empty.
    """
    try:
        with os.scandir(folder) as entries:
            files = [Path(entry.path) for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be read ({error.strerror or error}): give the folder of a run's checkpoints."
        ) from error
    found = [(int(match[1]), path) for path in files if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def newest_usable(folder: Path) -> tuple[Path | None, list[str]]:
    """Find the newest undamaged checkpoint of a folder.

    Returns:
        The file, or None if there is none, and a line on the fault of each newer, damaged one, the newest first.

    Raises:
        CheckpointError: The folder cannot be read.
    """
    passed_over: list[str] = []
    for path in checkpoints(folder):
        if (reason := damage(path)) is None:
            return path, passed_over
        passed_over.append(f"{path} {reason}")
    return None, passed_over


def keep_newest(folder: Path, count: int, verified: Path | None = None) -> None:
    """Remove all but the ``count`` newest checkpoints of a folder.

    The newest undamaged one is always kept.

    Args:
        folder: Folder with ``step_*.ckpt`` files.
        count: Number to keep, damaged ones included.
        verified: A checkpoint known to be intact, which saves the search for one; it is kept.

    Raises:
        ValueError: ``count`` is less than one.
        CheckpointError: A file cannot be removed.
    """
    if count < 1:
        raise ValueError(f"count = {count}: keep at least one checkpoint.")
    older = checkpoints(folder)[count:]
    try:
        if older:
            spared = verified or newest_usable(folder)[0]
            for path in older:
                if spared is None or path.name != spared.name:
                    remove(path)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or folder} cannot be removed ({error.strerror or error}), to keep only the newest "
            f"{count}: {remedy(error)}, then run the same command with --ckpt_path last."
        ) from error


def remove(path: Path) -> None:
    """Remove a checkpoint.

    Raises:
        OSError: It cannot be removed.
    """
    path.unlink(missing_ok=True)
    _remove_old_checksum(path)


def _remove_old_checksum(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)


def link_last(path: Path) -> None:
    """Make ``last.ckpt`` in the folder of ``path`` a relative symbolic link to it, atomically.

    Without symbolic links it becomes a hard link, or a copy.

    Raises:
        CheckpointError: None of these can be written.
    """
    last, link = path.with_name(LAST), path.with_name(f".{LAST}.tmp")
    try:
        link.unlink(missing_ok=True)
        _link(path, link)
        # os.replace does nothing, and keeps both, if the two are links to one file.
        os.replace(link, last)
        link.unlink(missing_ok=True)
        _remove_old_checksum(last)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            link.unlink(missing_ok=True)
        raise _cannot_write(last, error) from error


def _link(path: Path, link: Path) -> None:
    """Create a link to a file in the same folder, of the best kind that the file system supports."""
    try:
        os.symlink(path.name, link)
    except OSError:
        try:
            os.link(path, link)
        except OSError:
            shutil.copyfile(path, link)
            with link.open("r+b") as file:
                sync_file(file)


def _cannot_write(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path.parent}: cannot write {path.name} ({error.strerror or error}): the older checkpoints there are "
        f"untouched; {remedy(error)}, then run the same command with --ckpt_path last."
    )
