"""Kills evaluations in processes of their own and continues them; started by test_kill.py, prints what came of it.

    python -m tests.evaluation.benchmark.kills FOLDER KILLS SEED

A process of its own, since one that has computed with torch cannot be forked safely, and starting one costs seconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from robustseg.evaluation import store
from robustseg.evaluation.benchmark import module, run, run_benchmark
from tests.evaluation.benchmark.tiny import measured, quiet_trainer, tiny_benchmark

FULL_EVERY = 6
"""One in so many evaluations probes the model and writes the report as well: these take most of the time."""


def evaluate(folder: Path, full: bool) -> None:
    run_benchmark(quiet_trainer(folder), tiny_benchmark(check_images=int(full)), folder)


def start(work: Callable[[], None]) -> int:
    """A child that does ``work`` and ends with status 0, or 1 after an exception."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def finish(work: Callable[[], None]) -> float:
    """Do ``work`` in a child; the processor time that it took."""
    child = start(work)
    _, status, used = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"the child ended with {status}")
    return used.ru_utime + used.ru_stime


def kill_after(seconds: float, work: Callable[[], None]) -> bool:
    """Kill a child once it used so much processor time, which other processes do not change; whether it was running."""
    child = start(work)
    while not (ended := os.waitpid(child, os.WNOHANG)[0]):
        # Linux's clock of another process's processor time, see clock_getcpuclockid(3)
        if time.clock_gettime((~child << 3) | 2) >= seconds:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.001)
    return not ended and os.WIFSIGNALED(os.waitpid(child, 0)[1])


def die_in_write(number: int, share: float) -> None:
    """Let this process die in the middle of writing its batch of that number."""
    create = store._create

    class Dying:
        def __init__(self, folder: Path, name: str):
            self.file, self.left = create(folder, name), number

        def write(self, block: bytes) -> None:
            self.left -= 1
            if self.left < 0:
                self.file.write(block[: int(share * len(block))])
                self.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            self.file.write(block)

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    store._create = Dying


def kill_in_write(number: int, share: float, work: Callable[[], None]) -> bool:
    def dying() -> None:
        die_in_write(number, share)
        work()

    return os.WIFSIGNALED(os.waitpid(start(dying), 0)[1])


def main() -> None:
    torch.set_num_threads(1)
    root, kills, generator = Path(sys.argv[1]), int(sys.argv[2]), random.Random(sys.argv[3])
    warnings.simplefilter("ignore")
    # Others may commit while this runs.
    module.commit = lambda: None
    write_report = run.write_report
    run.write_report = lambda card, path, pictures, **_: path.write_text("lean")
    cost, reference = {}, {}
    for full in (False, True):
        if full:
            run.write_report = write_report
        folder = root / f"reference-{full}"
        cost[full] = finish(partial(evaluate, folder, full))
        reference[full] = (folder / "card.json").read_bytes()
    records = measured(root / "reference-False")
    found = []
    for number in range(kills):
        full = number % FULL_EVERY == 0
        run.write_report = write_report if full else lambda card, path, pictures, **_: path.write_text("lean")
        folder = root / f"killed-{number}"
        work = partial(evaluate, folder, full)
        if number % 3 == 1:
            killed = kill_in_write(generator.randrange(16), generator.random(), work)
        else:
            killed = kill_after(generator.uniform(0.05, 1.0) * cost[full], work)
        before = sum(measured(folder).values()) if folder.exists() else 0
        finish(work)
        after = measured(folder)
        found.append(
            {
                "killed": killed,
                "full": full,
                "records": before,
                "same": (folder / "card.json").read_bytes() == reference[full],
                "once": after == records and set(after.values()) == {1},
            }
        )
    print("found " + json.dumps(found))


if __name__ == "__main__":
    main()
