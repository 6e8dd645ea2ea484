"""Checkpoint plugins for Lightning with atomic files, in the foreground or in the background."""

from __future__ import annotations

import io
import re
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from lightning_fabric.plugins import CheckpointIO

from robustseg.files import TemporaryFile
from robustseg.resume.checkpoint_files import (
    CheckpointError,
    is_step_checkpoint,
    keep_newest,
    link_last,
    make_folder,
    remove,
    serialise,
    write_checkpoint,
    write_file,
)
from robustseg.resume.checkpoint_reading import broken, read_plain_content

_BLOCK = 1 << 23
_VERSION = "pytorch-lightning_version"


class AtomicCheckpointIO(CheckpointIO):
    """Plugin that writes checkpoints atomically and reads only intact ones.

    After a file ``step_*.ckpt`` was written, ``last.ckpt`` beside it is a link to it, and older ones are removed. All
    other names (the best of a ModelCheckpoint) are not touched.

    Args:
        keep: Number of ``step_*.ckpt`` files to keep in a folder.

    Raises:
        ValueError: ``keep`` is less than one.
    """

    def __init__(self, keep: int = 3):
        if keep < 1:
            raise ValueError(f"keep = {keep}: keep at least one checkpoint; 3 survive two that are damaged.")
        self.keep = keep

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; on return it survives a crash of the process and of the machine.

        Args:
            checkpoint: Content collected by Lightning.
            path: Path of the file; its folder is created if needed.
            storage_options: Not used.

        Raises:
            CheckpointError: It cannot be written; older ones are unchanged.
        """
        path = Path(path)
        make_folder(path.parent)
        write_checkpoint(checkpoint, path)
        self._retain(path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint to continue its training.

        Args:
            path: Path of the file.
            map_location: Argument of ``torch.load``; by default the CPU.
            weights_only: Not used: only tensors and plain values are ever unpickled.

        Raises:
            CheckpointError: The file is missing or damaged, refers to other objects, comes from a newer Lightning, or
                holds no training state.
        """
        path = Path(path)
        if (reason := broken(path)) is not None:
            raise CheckpointError(
                f"checkpoint {path} {reason}: give another one, or --ckpt_path last for the newest that is whole."
            )
        content = read_plain_content(path, "cpu" if map_location is None else map_location)
        _refuse_newer_version(content, path)
        _refuse_without_training_state(content, path)
        return dict(content)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint if it exists.

        Raises:
            CheckpointError: It cannot be removed.
        """
        try:
            remove(Path(path))
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be removed ({error.strerror or error}): make its folder writable, then run the same "
                "command with --ckpt_path last."
            ) from error

    def wait(self) -> None:
        """Return immediately: every write is already complete."""

    def _retain(self, path: Path) -> None:
        if is_step_checkpoint(path):
            link_last(path)
            keep_newest(path.parent, self.keep, verified=path)


class BackgroundCheckpointIO(AtomicCheckpointIO):
    """Plugin as :class:`AtomicCheckpointIO`, with a thread that writes during training.

    The caller serialises the state to memory, so that later changes do not reach the file; the thread checks the
    written file and waits for the disk. One write may wait beside the running one; with a third the caller waits, so
    that there are never more than two states in memory. Files are written and removed in the order of the calls; none
    is removed after a failed write, since it may be the last good one.

    An error in the thread is raised by the next :meth:`save_checkpoint`, :meth:`wait` or :meth:`teardown`.

    Lightning's AsyncCheckpointIO does not suffice: it copies tensors on their own device and shares all other values
    with the training, has an unbounded queue, removes a file before the queued write that replaces it, and reports an
    error one call too late and only the last of several.

    Args:
        keep: See :class:`AtomicCheckpointIO`.
    """

    def __init__(self, keep: int = 3):
        super().__init__(keep)
        self._thread: ThreadPoolExecutor | None = None
        self._writes: deque[Future[None]] = deque()
        self._removals: deque[Future[None]] = deque()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Serialise the present state and queue its write.

        Args:
            checkpoint: Content collected by Lightning; it may change after the return.
            path: Path of the file; its folder is created if needed.
            storage_options: Not used.

        Raises:
            CheckpointError: This state cannot be saved, or an earlier one could not be written.
        """
        self._collect(running=1)
        state = io.BytesIO()
        serialise(checkpoint, state)
        self._writes.append(self._executor().submit(self._write, state, Path(path)))

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Wait for all writes, then read a checkpoint as :meth:`AtomicCheckpointIO.load_checkpoint` does."""
        self.wait()
        return super().load_checkpoint(path, map_location, weights_only)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Queue the removal of a checkpoint after all earlier writes, if these succeed."""
        before = self._writes[-1] if self._writes else None
        self._removals.append(self._executor().submit(self._remove, path, before))

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            CheckpointError: A write or a removal failed.
        """
        self._collect(running=0)

    def teardown(self) -> None:
        """Wait until everything is written, and end the thread.

        Raises:
            CheckpointError: A write or a removal failed.
        """
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None
        self.wait()

    def _executor(self) -> ThreadPoolExecutor:
        # Created on first use: Lightning copies plugins, and a run may continue after teardown.
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        return self._thread

    def _write(self, state: io.BytesIO, path: Path) -> None:
        make_folder(path.parent)
        write_file(lambda file: _write_blocks(state, file), path)
        self._retain(path)

    def _remove(self, path: str | Path, before: Future[None] | None) -> None:
        # A single thread works in order, so ``before`` is done.
        if before is None or before.exception() is None:
            super().remove_checkpoint(path)

    def _collect(self, running: int) -> None:
        """Wait until at most ``running`` writes are left, then raise each error of the thread once."""
        errors: list[BaseException] = []
        for futures, allowed in ((self._writes, running), (self._removals, len(self._removals) * running)):
            while futures and (futures[0].done() or len(futures) > allowed):
                # An interrupted wait must not lose the write.
                if (error := futures[0].exception()) is not None:
                    errors.append(error)
                futures.popleft()
        if len(errors) > 1:
            raise CheckpointError("; ".join(dict.fromkeys(map(str, errors)))) from errors[0]
        if errors:
            raise errors[0]


def _write_blocks(state: io.BytesIO, file: TemporaryFile) -> None:
    with state.getbuffer() as view:
        for start in range(0, len(view), _BLOCK):
            file.write(view[start : start + _BLOCK])


def _refuse_newer_version(content: object, path: Path) -> None:
    written_by, installed = _version(content), metadata.version("pytorch-lightning")
    found, own = _major_minor(written_by), _major_minor(installed)
    if found is not None and own is not None and found > own:
        raise CheckpointError(
            f"checkpoint {path} was written by pytorch-lightning {written_by}, and {installed} is installed, which may "
            f"misread it: pip install 'pytorch-lightning>={found[0]}.{found[1]}'."
        )


def _version(content: object) -> str | None:
    version = content.get(_VERSION) if isinstance(content, dict) else None
    return version if isinstance(version, str) else None


def _major_minor(version: str | None) -> tuple[int, int] | None:
    match = re.match(r"([0-9]+)\.([0-9]+)", version or "")
    return None if match is None else (int(match[1]), int(match[2]))


def _refuse_without_training_state(content: object, path: Path) -> None:
    if not isinstance(content, dict) or not {_VERSION, "state_dict", "loops", "optimizer_states"} <= content.keys():
        raise CheckpointError(
            f"checkpoint {path} holds no training state to go on from: to start a new run from its weights, give it as "
            "--model.init_weights instead of --ckpt_path."
        )
