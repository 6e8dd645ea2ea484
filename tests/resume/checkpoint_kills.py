"""A process that writes checkpoints and is killed: at a random moment, or at each of its calls to the file system."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

# What changes a folder; the audit event comes before the change.
CHANGES = ("open", "os.rename", "os.remove", "os.symlink", "os.link", "os.truncate", "fcntl.flock")


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def content(step: int, size: int = 100_000) -> dict[str, object]:
    """The state after a step, of which every tensor and number says which step it was."""
    generator = torch.Generator().manual_seed(step)
    return {"step": step, "weights": [torch.rand(size, generator=generator) for _ in range(4)], "name": f"state {step}"}


def assert_content(path: Path, step: int, size: int = 100_000) -> None:
    found, expected = torch.load(path, weights_only=True), content(step, size)
    assert found["step"] == step
    assert found["name"] == expected["name"]
    assert all(torch.equal(one, two) for one, two in zip(found["weights"], expected["weights"], strict=True))


def kill_at_random(write: Callable[[int], None], acknowledged: Path, rng: random.Random, longest: float) -> int:
    """Run ``write(1)``, ``write(2)`` … in a child that is killed; the last step whose write had returned, or 0."""
    acknowledged.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        _write_for_ever(write, acknowledged)
    try:
        deadline = time.monotonic() + 20
        while not acknowledged.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, longest))
    finally:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child ended by itself"
    return int(acknowledged.read_text() or 0)


def _write_for_ever(write: Callable[[int], None], acknowledged: Path) -> None:
    try:
        with acknowledged.open("w") as file:
            step = int(file.write("") or 0)
            while True:
                step += 1
                write(step)
                os.pwrite(file.fileno(), str(step).encode(), 0)
    finally:
        os._exit(1)


def killed_before_change(action: Callable[[], None], number: int) -> bool:
    """Run ``action`` in a child that is killed before its ``number``-th change; False if it makes fewer."""
    child = os.fork()
    if not child:
        _count_down(action, number)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the action failed in the child"
    return os.WIFSIGNALED(status)


def _count_down(action: Callable[[], None], number: int) -> None:
    left = number

    def count(event: str, _: object) -> None:
        nonlocal left
        if event in CHANGES:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(count)
        action()
        os._exit(0)
    finally:
        os._exit(1)
