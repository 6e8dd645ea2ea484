"""The shipped batch files, with a stand-in for ``robustseg``: what becomes of a job for each ending of a run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow
FILES = ROOT / "configs" / "slurm"
# Each task prints its start and its options, and then does what the last option says; in the last start all is well.
STAND_IN = """#!{python} -S
import os, pathlib, signal, sys, time
number, task = int(os.environ.get("SLURM_RESTART_COUNT", 0)), os.environ["SLURM_PROCID"]
run = pathlib.Path(os.environ["ROBUSTSEG_RUNS"], os.environ["SLURM_JOB_NAME"])

def checkpoint():
    time.sleep(0.05)
    (run / f"step_{{number}}.ckpt").touch()

def told(*signal):
    if ending == "told":  # with the other task gone nothing can be agreed upon
        checkpoint()
    sys.exit(85)

names = ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK", "MASTER_ADDR", "MASTER_PORT")
print(f"start {{number}} task {{task}}:", *map(os.environ.get, names), *sys.argv[1:], flush=True)
ending = sys.argv[sys.argv.index("--then") + 1]
if ending == "slow":
    time.sleep(2)  # and still deaf
signal.signal(signal.SIGUSR1, told)
signal.signal(signal.SIGTERM, told)
if (number == 2 and ending != "flaky") or ending == "done":
    sys.exit()
if ending == "wrong":
    time.sleep(int(task) / 2)
    sys.exit(1)
if ending != "flaky" or number == 0:
    checkpoint()
if ending == "killed" and task == "1":
    os.kill(os.getpid(), signal.SIGKILL)
if ending in ("crashed", "flaky") and task == "1":
    sys.exit(1)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("batch") / "runs"


@pytest.fixture(scope="module")
def submit(cluster, runs) -> Callable[..., int]:
    folder = runs.parent
    (folder / "robustseg").write_text(STAND_IN.format(python=sys.executable))
    (folder / "robustseg").chmod(0o755)

    def submit(ending: str, *options: str, name: str, file: str = "one_node.sbatch", **variables: str) -> int:
        variables["PATH"] = f"{folder}:{cluster.environment['PATH']}"
        variables["ROBUSTSEG_RUNS"] = str(runs)
        more = ["--ntasks-per-node=2", f"--job-name={name}", f"--chdir={ROOT}", *options]
        arguments = ["--config", "a file.yaml", "--then", ending]
        return cluster.submit(FILES / file, *more, arguments=arguments, output=folder / f"{name}-%j.out", **variables)

    return submit


def starts(cluster, job: int, task: int = 0) -> list[str]:
    return [line for line in cluster.output(job).split("\n") if f" task {task}: " in line]


def wait_for(cluster, job: int, printed: str, times: int) -> None:
    cluster.until(lambda: cluster.output(job).count(printed) >= times, 60, lambda: cluster.output(job))


@pytest.fixture(scope="module")
def endings(cluster, submit) -> dict[str, int]:
    """Jobs of all endings, which run at the same time."""
    several = {"file": "several_nodes.sbatch", "MASTER_PORT": "23456", "OMP_NUM_THREADS": "3"}
    return {
        "done": submit("done", name="done"),
        "wrong": submit("wrong", name="wrong"),
        "killed": submit("killed", name="killed"),
        "crashed": submit("crashed", name="crashed", MAX_CRASHES="1"),
        "flaky": submit("flaky", name="flaky"),
        "told": submit("told", "--cpus-per-task=3", name="told"),
        "several": submit("done", "--ntasks-per-node=1", name="several", **several),
        "cancelled": submit("told", name="cancelled"),
        "sharded": submit("done", name="sharded", STRATEGY="fsdp2"),
    }


def test_done(cluster, endings):
    job = endings["done"]
    cluster.wait(job, "COMPLETED")
    (line,) = starts(cluster, job)
    # after the options that were given: those of the configuration must not win
    given = "--config a file.yaml --then done"
    node = cluster.facts(job)["NodeList"]
    assert line.startswith(f"start 0 task 0: 1 8 {node} {12000 + job % 18000} train {given} --ckpt_path last"), line
    assert "--experiment done --trainer.default_root_dir " in line
    assert line.endswith("--trainer.strategy ddp --trainer.num_nodes 1 --trainer.devices 2"), line


def test_the_strategy_is_chosen_by_a_variable(cluster, endings):
    job = endings["sharded"]
    cluster.wait(job, "COMPLETED")
    (line,) = starts(cluster, job)
    assert line.endswith("--trainer.strategy fsdp2 --trainer.num_nodes 1 --trainer.devices 2"), line


def test_several_nodes_meet_at_the_first_one(cluster, endings):
    job = endings["several"]
    cluster.wait(job, "COMPLETED")
    for task in (0, 1):
        (line,) = starts(cluster, job, task)
        assert line.startswith(f"start 0 task {task}: 3 8 n1 23456 train ")
        assert line.endswith("--trainer.num_nodes 2 --trainer.devices 1")


def test_told_to_go_and_requeued_it_is_continued_once_for_each(cluster, endings):
    job = endings["told"]
    for number, interrupt in ((1, lambda: cluster.signal(job, "USR1")), (2, lambda: cluster.requeue(job))):
        wait_for(cluster, job, "ready", 2 * number)
        interrupt()
    cluster.wait(job, "COMPLETED")
    assert cluster.restarts(job) == 2
    assert cluster.output(job).count("interrupted, to be continued") == 1
    # on whatever node, with whatever number of CPUs
    lines = [line.split() for line in starts(cluster, job)]
    assert [line[1] for line in lines] == ["0", "1", "2"]
    assert {(line[4], line[5], line[7]) for line in lines} == {("1", "3", str(12000 + job % 18000))}


def test_a_signal_that_comes_while_it_starts_is_not_its_end(cluster, submit):
    job = submit("slow", name="slow")
    wait_for(cluster, job, "start 0 task", 2)
    assert "ready" not in cluster.output(job)
    cluster.signal(job, "USR1")
    wait_for(cluster, job, "ready", 2)
    assert cluster.restarts(job) == 0
    cluster.cancel(job)


def test_a_cancelled_job_stays_cancelled(cluster, endings):
    job = endings["cancelled"]
    wait_for(cluster, job, "ready", 2)
    cluster.cancel(job)
    cluster.wait(job, "CANCELLED")
    # its tasks have kept their state, and asked to be started again
    wait_for(cluster, job, "exit code 85", 1)
    assert cluster.restarts(job) == 0


def test_a_crash_is_repeated_while_it_gets_further(cluster, endings):
    job = endings["killed"]
    cluster.wait(job, "COMPLETED")
    assert cluster.restarts(job) == 2
    assert cluster.output(job).count(": crashed with status 137 of task 1 after a checkpoint, to be continued") == 2


def test_and_no_more_often_than_allowed(cluster, endings):
    job = endings["crashed"]
    cluster.wait(job, "FAILED")
    assert cluster.restarts(job) == 1
    # the other task is told to go by srun, and asks to be started again
    assert "task 0: Exited with exit code 85" in cluster.output(job)
    assert "status 1 of task 1 once more: not started again" in cluster.output(job)


def test_a_second_start_that_gets_nowhere_is_the_last_one(cluster, endings):
    job = endings["flaky"]
    cluster.wait(job, "FAILED")
    assert cluster.restarts(job) == 2
    printed = cluster.output(job)
    assert printed.count("crashed with status 1 of task 1 after a checkpoint, to be continued") == 1
    assert printed.count("crashed with status 1 of task 1 before a checkpoint, to be continued") == 1
    assert "status 1 of task 1 before a checkpoint once more: not started again" in printed


def test_what_never_wrote_a_checkpoint_is_not_repeated(cluster, endings):
    job = endings["wrong"]
    cluster.wait(job, "FAILED")
    assert cluster.restarts(job) == 0
    assert "status 1 of task 0, and nothing to continue: not started again" in cluster.output(job)


def test_two_jobs_of_one_name_follow_one_another(cluster, submit):
    first = submit("told", name="same")
    second = submit("done", name="same")
    wait_for(cluster, first, "ready", 2)
    assert cluster.state(second) == "PENDING"
    cluster.cancel(first)
    cluster.wait(second, "COMPLETED")


def test_a_preempted_job_is_continued_after_the_other(cluster, submit, tmp_path):
    job = submit("told", "--nodelist=n2", name="preempted")
    wait_for(cluster, job, "ready", 2)
    (tmp_path / "urgent.sh").write_text("#!/bin/bash\n")
    options = ("--partition=high", "--nodelist=n2", "--exclusive")
    urgent = cluster.submit(tmp_path / "urgent.sh", *options, output=tmp_path / "out")
    cluster.wait(urgent, "COMPLETED")
    wait_for(cluster, job, "ready", 4)
    assert cluster.restarts(job) == 1
    cluster.cancel(job)


def test_the_tasks_of_an_array_are_runs_of_their_own(cluster, submit, runs):
    submit("done", "--array=0-1", name="array")
    for task in (0, 1):
        log = runs / "array" / str(task) / "starts.log"
        cluster.until(lambda log=log: log.exists() and "done" in log.read_text(), 60, str(log))


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck on this machine")
def test_shellcheck():
    files = [*FILES.glob("*.sbatch"), *FILES.glob("*.sh")]
    assert len(files) == 4
    done = subprocess.run(["shellcheck", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
