"""Kills training runs at random moments, continues them, and compares what they end in with an uninterrupted run.

    python -m tests.resume.kills FOLDER [--kills 100] [--seed 0] [--ranks 1] [--camvid data/camvid]

With one rank, runs are forked from a process that has imported everything, since starting one costs seconds; with more,
each is the real command with Lightning's launcher. A third of the kills of one rank strike in the middle of writing a
checkpoint, at a random byte; of several ranks every second strikes shortly after a random checkpoint, since most of
their time goes into starting. The others strike at a random moment between the start and the end of a run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# a child must not inherit threads that have computed
os.environ.setdefault("OMP_NUM_THREADS", "1")

import robustseg.cli.train  # noqa: F401  imported here, so that a forked child need not
from robustseg import files
from tests.helpers.paths import ROOT
from tests.resume.runs import command, fingerprint, fork, kill, newest, state, train, unlike, wait

WRITES = 8
"""Checkpoints that a run writes, at least."""
EVALUATION = ("--robustness.test_num_images", "2")


def camvid_options(root: str) -> list[str]:
    """The same run on CamVid."""
    return [
        *("--data", "CamVid", "--data.root", root, "--data.image_size", "[90, 120]", "--data.crop_size", "[64, 64]"),
        *("--data.batch_size", "4", "--data.val_batch_size", "3", "--data.num_workers", "2", "--data.check", "none"),
        *("--trainer.limit_val_batches", "2"),
    ]


class Runs:
    """Runs of one configuration."""

    def __init__(self, folder: Path, ranks: int, options: list[str], strategy: str = "ddp") -> None:
        self.folder, self.ranks = folder, ranks
        self.options = [*EVALUATION, *options]
        if ranks > 1:
            self.options += ["--trainer.devices", str(ranks), "--trainer.strategy", strategy]

    def start(self, name: str, before: Callable[[], None] = lambda: None) -> int:
        """A run in the folder of that name, from the beginning or from where it was."""
        arguments = command(self.folder / name, *self.options)
        log = self.folder / f"{name}.log"

        def work() -> int:
            before()
            if self.ranks == 1:
                return train(arguments)
            environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
            script = [sys.executable, str(ROOT / "train.py"), *arguments[1:]]
            return subprocess.run(script, cwd=ROOT, env=environment, check=False).returncode

        return fork(work, log)

    def finish(self, name: str) -> None:
        """Continue a run to its end."""
        status = wait(self.start(name), 900)
        if status != 0:
            raise RuntimeError(f"run {name} ended with {status}: see {self.folder / name}.log")

    def killed_at(self, name: str, seconds: float) -> bool:
        """Whether the run was going on when it was killed after so many seconds."""
        child = self.start(name)
        status = wait(child, seconds)
        kill(child)
        return status is None and wait(child) == -signal.SIGKILL

    def killed_after(self, name: str, step: int, seconds: float) -> bool:
        """Whether the run was going on when it was killed so many seconds after a checkpoint of that step or later."""
        child = self.start(name)
        while (status := wait(child, 0)) is None and _newest_step(self.folder / name) < step:
            time.sleep(0.005)
        if status is None:
            status = wait(child, seconds)
        kill(child)
        return status is None and wait(child) == -signal.SIGKILL

    def killed_in_write(self, name: str, byte: int) -> bool:
        """Whether the run died when it had written so many bytes of checkpoints."""
        return wait(self.start(name, lambda: die_at_byte(byte)), 900) == -signal.SIGKILL


def _newest_step(folder: Path) -> int:
    return max((int(path.stem[5:]) for path in folder.glob("*/version_*/checkpoints/step_*.ckpt")), default=-1)


def die_at_byte(number: int) -> None:
    """Let this process die in the middle of writing a checkpoint."""
    written, write = 0, files.TemporaryFile.write

    def counted(file: files.TemporaryFile, block: bytes | memoryview) -> int:
        nonlocal written
        if written + len(block) > number:
            write(file, memoryview(block)[: number - written])
            os.kill(os.getpid(), signal.SIGKILL)
        written += len(block)
        return write(file, block)

    files.TemporaryFile.write = counted  # type: ignore[method-assign]


def main() -> int:
    """Print a line for each kill, and at the end how many ended in the same bits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--camvid", help="folder of the data set; by default the embedded scenes")
    parser.add_argument("--tree", help="the same data in another place, which the uninterrupted run reads")
    options = parser.parse_args()
    runs = Runs(options.folder, options.ranks, camvid_options(options.camvid) if options.camvid else [])
    options.folder.mkdir(parents=True)
    started = time.monotonic()
    uninterrupted = runs if options.tree is None else Runs(options.folder, options.ranks, camvid_options(options.tree))
    uninterrupted.finish("whole")
    length = time.monotonic() - started
    whole = state(newest(options.folder / "whole"))
    print(f"uninterrupted: {length:.1f} s, {whole['global_step']} steps, {fingerprint(whole)[:16]}", flush=True)
    same = struck = 0
    chance = random.Random(options.seed)
    for number in range(options.kills):
        name = f"run{number}"
        if number % 3 == 2 and options.ranks == 1:
            byte = chance.randrange(WRITES * newest(options.folder / "whole").stat().st_size)
            what, running = f"byte {byte} of its checkpoints", runs.killed_in_write(name, byte)
        elif number % 2 == 0 and options.ranks > 1:
            step, seconds = chance.randrange(whole["global_step"] - 1), chance.uniform(0, 0.3)
            what, running = f"{seconds:.2f} s after step {step}", runs.killed_after(name, step, seconds)
        else:
            seconds = chance.uniform(0, 0.95 * length)
            what, running = f"{seconds:.2f} s", runs.killed_at(name, seconds)
        runs.finish(name)
        lines = unlike(whole, state(newest(options.folder / name)))
        same, struck = same + (not lines), struck + running
        print(f"{number + 1}: {what}: {'killed' if running else 'had ended'}, {lines[:3] or 'same bits'}", flush=True)
        shutil.rmtree(options.folder / name)
    print(f"{same} of {options.kills} in the same bits; {struck} were running when killed", flush=True)
    return 0 if same == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
