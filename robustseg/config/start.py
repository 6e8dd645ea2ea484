"""Start of a run or an evaluation: its checkpoint, the version of its folder, and the settings its data decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import Namespace

from robustseg.config.options import FROM_DATA
from robustseg.config.saying import say, tell
from robustseg.data import SegmentationData
from robustseg.resume.checkpoint_io import AtomicCheckpointIO
from robustseg.resume.runs import RunError, last_run


class Start(NamedTuple):
    """Start of a run or an evaluation."""

    version: int | None
    """Number of the continued run's folder; None for a new run."""
    checkpoint: Any
    """Path of the checkpoint; None for a run from the beginning."""
    resumed: dict[str, Any] | None
    """Content of the checkpoint that a run continues."""


def find_start(config: Namespace, command: str) -> Start:
    """Find the checkpoint before anything is built or written.

    Args:
        config: As parsed.
        command: ``train``, ``evaluate`` or ``study``.

    Raises:
        RunError: There is no such checkpoint, or none where one is needed.
    """
    checkpoint, version, trains = config.ckpt_path, None, command == "train"
    if checkpoint is None:
        if not trains:
            raise RunError(f"{command} needs --ckpt_path: the checkpoint whose model is to be scored.")
        return Start(None, None, None)
    if trains and checkpoint == "last":
        version, checkpoint, notes = last_run(config.trainer.default_root_dir, config.experiment)
        for note in notes:
            say(note)
        if checkpoint is None:
            return Start(version, None, None)
    if not Path(checkpoint).is_file():
        hint = "no such file."
        if checkpoint == "last":
            hint = "that is for train; give the file, RUN/checkpoints/last.ckpt."
        elif Path(checkpoint).is_dir():
            hint = "it is a folder; give a file in it, or last."
        raise RunError(f"--ckpt_path {checkpoint}: {hint}")
    return Start(version, checkpoint, AtomicCheckpointIO().load_checkpoint(checkpoint) if trains else None)


def start_from_nothing_else(model: Namespace) -> None:
    """Drop the weights that training started from: a checkpoint holds all, and these need not be there any more."""
    model.init_weights = model.init_without = None
    arguments = model.network.get("init_args") or {}
    for key, value in (("pretrained", False), ("weights", None)):
        if key in arguments:
            arguments[key] = value


def leave_uncompiled(model: Namespace, arguments: Sequence[str]) -> None:
    """Switch off a run's ``model.compile``, which is for its training, unless the command line of an evaluation has it.

    The figures of a checkpoint then do not depend on the compiler of the machine that they are measured on.

    Args:
        model: Section of the configuration.
        arguments: The command line.
    """
    if model.compile and not any(argument.startswith("--model.compile") for argument in arguments):
        tell("the model runs uncompiled; --model.compile true compiles it for an evaluation")
        model.compile = False


def refuse_other_data(config: Namespace, data: SegmentationData) -> None:
    """Refuse values that the data decides and that are given as others: they would be ignored.

    Raises:
        RunError: There is one.
    """
    for key, name in FROM_DATA.items():
        given, value = config.get(key), getattr(data, name)
        if given is not None and given != value:
            raise RunError(
                f"{key} = {given}, but the data ({type(data).__name__}) has {name} = {value}: leave it out, as it "
                "comes from the data, or choose other data."
            )
