"""A training of two ranks under each launcher, in which one fails as :mod:`tests.resume.failing_run` says."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.helpers.paths import CONF, ROOT
from tests.slurm.cluster import Cluster

SCRIPT = Path(__file__).with_name("failing_run.py")
LIMIT_S = 300


class End(NamedTuple):
    """How a training ended."""

    status: int
    printed: str
    seconds: float
    """From the failure to the end of the last rank."""


Launcher = Callable[..., End]


def lightning(folder: Path, how: str, who: int, *options: str, launcher: tuple[str, ...] = ()) -> End:
    """Started by Lightning: rank 0 starts the others."""
    with open(folder / "log", "w") as log:  # a file, since orphaned ranks would hold a pipe open
        process = subprocess.Popen(
            [sys.executable, *launcher, *_command(folder), *options],
            cwd=ROOT,
            env=os.environ | _variables(how, who),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        status = process.wait(timeout=LIMIT_S)
        return _end(status, folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def torchrun(folder: Path, how: str, who: int, *options: str) -> End:
    """Started by torchrun."""
    agent = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    return lightning(folder, how, who, *options, launcher=agent)


def srun(cluster: Cluster, folder: Path, how: str, who: int, *options: str) -> End:
    """Started by SLURM, with the option of ``configs/slurm/start.sh``."""
    script = folder / "job.sh"
    command = " ".join(map(str, (sys.executable, *_command(folder), *options)))
    script.write_text(f"#!/bin/bash\nexec srun --kill-on-bad-exit=1 {command}\n")
    tasks = ("--ntasks-per-node=2", "--nodes=1", f"--chdir={ROOT}", "--no-requeue")
    job = cluster.submit(script, *tasks, output=folder / "log", **_variables(how, who))
    try:
        cluster.until(lambda: cluster.state(job) in ("COMPLETED", "FAILED"), LIMIT_S, lambda: cluster.output(job))
        status, by_signal = map(int, cluster.facts(job)["ExitCode"].split(":"))
        return _end(status or -by_signal, folder)
    finally:
        if cluster.state(job) not in ("COMPLETED", "FAILED"):
            cluster.cancel(job)


def _variables(how: str, who: int) -> dict[str, str]:
    loopback = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return loopback | {"PYTHONPATH": str(ROOT), "HOW": how, "WHO": str(who)}


def _command(folder: Path) -> list[str]:
    devices = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    return [str(SCRIPT), "--config", str(CONF / "tiny.yaml"), *devices, "--trainer.default_root_dir", str(folder)]


def _end(status: int, folder: Path) -> End:
    def printed() -> str:
        return (folder / "log").read_text(errors="replace")

    ranks = [int(number) for number in re.findall(r"PROCESS (\d+)", printed())]
    until = time.monotonic() + LIMIT_S
    while any(map(_is_running, ranks)) and time.monotonic() < until:
        time.sleep(0.05)
    failed = re.search(r"FAILING ([\d.]+)", printed())
    return End(status, printed(), time.time() - float(failed[1]) if failed else 0.0)


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
