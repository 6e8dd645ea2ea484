"""Runs of the real command in processes of their own: started, killed, continued, compared."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.helpers.paths import CONF

CONFIG = CONF / "resume.yaml"


def command(folder: Path, *options: str) -> list[str]:
    """Arguments of a training run that goes on where it was."""
    return [
        *("train", "--config", str(CONFIG), "--trainer.default_root_dir", str(folder)),
        *("--ckpt_path", "last", *options),
    ]


def newest(folder: Path) -> Path:
    """The last checkpoint of the run in a folder."""
    (path,) = folder.glob("*/version_*/checkpoints/last.ckpt")
    return path


def state(path: Path) -> dict[str, Any]:
    """All of a checkpoint that must not depend on interruptions: everything but paths."""
    content = torch.load(path, weights_only=True)
    content.get("robustseg_run", {}).get("outline", {}).pop("callbacks", None)  # best_k_models has paths as keys
    (best,) = [value for key, value in content["callbacks"].items() if key.startswith("ModelCheckpoint")]
    best.pop("current_score")  # of the newest validation that was the best then; Lightning does not restore it
    for key in ("dirpath", "best_model_path", "last_model_path", "kth_best_model_path", "best_k_models"):
        best[key] = str(
            {Path(path).name for path in best[key]} if isinstance(best[key], dict) else Path(best[key]).name
        )
    return content


def fingerprint(content: Any) -> str:
    """SHA-256 over nested values, tensors by their bytes."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key, entry in value.items():
                digest.update(repr(key).encode())
                add(entry)
        elif isinstance(value, (list, tuple)):
            digest.update(f"{len(value)}".encode())
            for entry in value:
                add(entry)
        elif isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(value).encode())

    add(content)
    return digest.hexdigest()


def unlike(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two states differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [line for key in {**one, **other} for line in unlike(one.get(key), other.get(key), f"{at}/{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return [line for k, pair in enumerate(zip(one, other, strict=True)) for line in unlike(*pair, f"{at}/{k}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [f"{at}: {(one.double() - other.double()).abs().max():.3g} apart"]
    return [] if one == other else [f"{at}: {one!r} and {other!r}"]


def fork(work: Callable[[], int | None], log: Path) -> int:
    """A child process in a group of its own that does ``work``; its output goes to ``log``."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        status = work() or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def kill(child: int) -> None:
    """SIGKILL to a child and everything it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def wait(child: int, seconds: float | None = None) -> int | None:
    """Exit status of a child, negative for a signal; None when it is still running after ``seconds``."""
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if until is not None and time.monotonic() >= until:
            return None
        time.sleep(0.005)


def train(arguments: Sequence[str]) -> int:
    """The command, in this process."""
    from robustseg.cli.main import main

    torch.set_num_threads(1)
    return main(list(arguments))
