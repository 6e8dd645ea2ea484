"""The cluster itself, with jobs of plain shell."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.slurm.cluster import members, missing

pytestmark = pytest.mark.slow


def script(folder: Path, *lines: str) -> Path:
    path = folder / "job.sh"
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    return path


def test_a_job_runs_on_both_nodes(cluster, tmp_path):
    path = script(tmp_path, 'srun bash -c "echo $GREETING from \\$SLURMD_NODENAME"')
    job = cluster.submit(path, "--nodes=2", "--ntasks-per-node=1", output=tmp_path / "out", GREETING="hello")
    cluster.wait(job, "COMPLETED")
    assert sorted(cluster.output(job).split("\n")) == ["", "hello from n1", "hello from n2"]
    assert cluster.restarts(job) == 0


def test_a_job_that_fails_is_told_with_what_it_printed(cluster, tmp_path):
    job = cluster.submit(script(tmp_path, "echo no luck", "exit 3"), output=tmp_path / "out")
    with pytest.raises(AssertionError, match=r"(?s)is FAILED.*no luck"):
        cluster.wait(job, "COMPLETED")
    assert cluster.facts(job)["ExitCode"] == "3:0"
    with pytest.raises(AssertionError, match=r"not after 0.3 s: job \d+ RUNNING"):
        cluster.until(lambda: False, 0.3, lambda: f"job {job} RUNNING")


def test_requeue_runs_it_twice_and_a_signal_reaches_the_tasks_only(cluster, tmp_path):
    task = "trap 'echo task got USR1; exit 5' USR1; echo ready; for i in {1..300}; do sleep 0.1; done"
    lines = ["trap 'echo shell got USR1' USR1", "echo start ${SLURM_RESTART_COUNT:-0}", f'srun bash -c "{task}"']
    path = script(tmp_path, *lines, "echo srun $?")
    job = cluster.submit(path, "--requeue", "--ntasks=2", "--open-mode=append", output=tmp_path / "out")
    cluster.until(lambda: cluster.output(job).count("ready") == 2, 30, "the first start")
    cluster.requeue(job)
    cluster.until(lambda: cluster.output(job).count("ready") == 4, 30, lambda: cluster.output(job))
    cluster.signal(job, "USR1")
    cluster.wait(job, "COMPLETED")
    printed = cluster.output(job)
    assert printed.count("task got USR1") == 2
    assert "shell got USR1" not in printed
    assert [line for line in printed.split("\n") if line.startswith(("start ", "srun "))] == [
        "start 0",
        "start 1",
        "srun 5",
    ]
    assert cluster.restarts(job) == 1


HOLDER = """
import signal, sys, time
from pathlib import Path
from tests.slurm.cluster import Cluster
# ignored by whatever a shell runs in its background
signal.signal(signal.SIGINT, signal.default_int_handler)
with Cluster() as cluster:
    job = cluster.submit(Path(sys.argv[1]), output=Path(sys.argv[2]))
    cluster.until(lambda: "ready" in cluster.output(job), 30, "a job")
    Path(sys.argv[3]).write_text(cluster.environment["SLURM_CONF"])
    time.sleep(600)
"""


@pytest.mark.skipif(missing() is not None, reason=f"no SLURM: {missing()}")
@pytest.mark.flaky(reruns=1)  # time limits, on a machine that others load
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_of_a_second_cluster_when_its_tests_are_killed(cluster, tmp_path, number):
    path = script(tmp_path, "trap '' TERM", "echo ready", "sleep 600 & wait")
    command = [sys.executable, "-c", HOLDER, path, tmp_path / "out", tmp_path / "conf"]
    with (tmp_path / "log").open("w") as log:
        holder = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        cluster.until((tmp_path / "conf").exists, 120, lambda: (tmp_path / "log").read_text())
        conf = (tmp_path / "conf").read_text()
        # munged, slurmctld, two slurmd, the step of the job, its shell and the shell's child
        assert len(members(conf)) >= 7
        os.killpg(holder.pid, number)
        holder.wait(90)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
    cluster.until(lambda: not members(conf), 60, lambda: f"{members(conf)} are left")
    cluster.until(lambda: not Path(conf).parent.exists(), 60, f"{conf} is left")
    assert members(cluster.environment["SLURM_CONF"])
