"""SLURM job: its allocation compared with Lightning's expectations, and its warning before the time limit."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from robustseg.doctor.configuration import Setup
from robustseg.doctor.findings import Finding, caution, counted, ok, problem

# Step numbers of the batch script and of interactive shells, which are steps without srun.
_NOT_SRUN = 4_294_967_280


class Launch(NamedTuple):
    """Launcher of several processes, and the place of this process among them."""

    by: str
    """``torchrun`` or ``srun``."""
    rank: int
    world_size: int
    local_rank: int


def find_launch(environ: Mapping[str, str]) -> Launch | None:
    """Find the place of this process among several, as Lightning does; None for a single process.

    Args:
        environ: Environment variables.
    """
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= set(environ):
        return Launch("torchrun", int(environ["RANK"]), int(environ["WORLD_SIZE"]), int(environ["LOCAL_RANK"]))
    if _by_srun(environ) and not _interactive(environ) and int(environ.get("SLURM_NTASKS", "1")) > 1:
        return Launch(
            "srun", int(environ["SLURM_PROCID"]), int(environ["SLURM_NTASKS"]), int(environ.get("SLURM_LOCALID", "0"))
        )
    return None


def check_slurm(environ: Mapping[str, str], setup: Setup | None, gpus: int) -> Iterator[Finding]:
    """Check the variables of a job and the controller's facts about it.

    Args:
        environ: Environment variables.
        setup: Resources of the run, if a configuration was given.
        gpus: Number of GPUs that this process sees.
    """
    if "SLURM_JOB_ID" not in environ:
        yield ok("job", "This is not a SLURM job.")
        return
    yield ok("job", _summary(environ), **{key: environ[key] for key in sorted(environ) if key.startswith("SLURM_")})
    yield from _tasks(environ)
    yield from _against_setup(environ, setup, gpus)
    yield from _cores_and_gpus(environ, gpus)
    if shutil.which("scontrol") is None:
        yield caution(
            "scontrol",
            "scontrol is not on the PATH: a run that is told to stop saves and exits with status 85, but cannot "
            "requeue itself.",
            "Put SLURM's bin folder on the PATH (in a container: mount it), or requeue in the batch script when srun "
            "exits with 85.",
        )
        return
    shown = _scontrol("show", "job", "--oneliner", environ["SLURM_JOB_ID"])
    if shown is None:
        yield caution(
            "scontrol",
            f"scontrol show job {environ['SLURM_JOB_ID']} gave no answer within 10 s or failed.",
            "Ask the administrators whether compute nodes may talk to the controller; without it no job can requeue "
            "itself.",
        )
        return
    facts = dict(re.findall(r"(\w+)=(\S*)", shown))
    yield from job_facts(facts, datetime.now())
    script = _scontrol("write", "batch_script", environ["SLURM_JOB_ID"], "-")
    if script is not None and facts.get("BatchFlag") != "0":
        yield from check_signal(script)


def _summary(environ: Mapping[str, str]) -> str:
    get = environ.get
    array = f", task {get('SLURM_ARRAY_TASK_ID')} of an array" if "SLURM_ARRAY_TASK_ID" in environ else ""
    again = f", requeues so far: {get('SLURM_RESTART_COUNT')}" if "SLURM_RESTART_COUNT" in environ else ""
    return (
        f"{get('SLURM_JOB_ID')} ({get('SLURM_JOB_NAME', 'no name')}): nodes {get('SLURM_NODELIST', '?')}, "
        f"tasks: {get('SLURM_NTASKS', '1')}, cores per task: {get('SLURM_CPUS_PER_TASK', '1')}{array}{again}"
    )


def _by_srun(environ: Mapping[str, str]) -> bool:
    step = environ.get("SLURM_STEP_ID", "")
    return step.isdigit() and int(step) < _NOT_SRUN and "SLURM_PROCID" in environ


def _interactive(environ: Mapping[str, str]) -> bool:
    # Lightning ignores SLURM's variables in jobs with these names.
    return environ.get("SLURM_JOB_NAME") in ("bash", "interactive")


def _tasks(environ: Mapping[str, str]) -> Iterator[Finding]:
    tasks, nodes = int(environ.get("SLURM_NTASKS", "1")), int(environ.get("SLURM_NNODES", "1"))
    if tasks == 1:
        yield ok("tasks", "One task.")
        return
    each = tasks // nodes
    if not _by_srun(environ) and _interactive(environ):
        yield caution(
            "srun",
            f"The job has {tasks} tasks, but this shell is one process, and as the job is called "
            f"{environ['SLURM_JOB_NAME']} Lightning leaves SLURM aside.",
            f"Fine for one process. For all tasks: srun --job-name=robustseg --ntasks-per-node={each} robustseg ...",
        )
    elif _interactive(environ):
        yield problem(
            "job name",
            f"{tasks} tasks were started by srun, but as the job is called {environ['SLURM_JOB_NAME']} Lightning "
            "leaves SLURM aside: each would train by itself.",
            "Another --job-name: srun takes the name of what it starts, which is why srun bash -c ... is called bash.",
        )
        return
    elif not _by_srun(environ):
        yield problem(
            "srun",
            f"SLURM_NTASKS = {tasks}, but this process was not started by srun: it would be rank 0 of {tasks} and wait "
            "for others that never start.",
            f"Start it with srun: srun --ntasks-per-node={each} robustseg ...; or for a single process in an "
            "interactive allocation: salloc --job-name=interactive.",
        )
    if "SLURM_NTASKS_PER_NODE" not in environ and not _interactive(environ):
        yield problem(
            "ntasks-per-node",
            f"--ntasks={tasks} without --ntasks-per-node: Lightning refuses to start, as it cannot know how many "
            "processes a node has.",
            f"#SBATCH --nodes={nodes} and --ntasks-per-node={each}, and no --ntasks; or srun --ntasks-per-node={each}.",
        )
    elif _by_srun(environ):
        yield ok("tasks", f"{tasks} tasks started by srun, --ntasks-per-node={environ.get('SLURM_NTASKS_PER_NODE')}.")


def _against_setup(environ: Mapping[str, str], setup: Setup | None, gpus: int) -> Iterator[Finding]:
    if _interactive(environ):
        return
    per_node, nodes = environ.get("SLURM_NTASKS_PER_NODE"), int(environ.get("SLURM_NNODES", "1"))
    if setup is None:
        yield ok("trainer", "Not compared with trainer.devices: give the run's --config.")
        return
    automatic = setup.devices == "auto"
    devices = setup.processes(gpus)
    said = f"trainer.devices is {'auto, here ' if automatic else ''}{devices}"
    if per_node is None and int(environ.get("SLURM_NTASKS", "1")) == 1:
        per_node = "1"
    if per_node is not None and int(per_node) != devices:
        yield problem(
            "trainer.devices",
            f"--ntasks-per-node is {per_node}, but {said}: Lightning refuses to start.",
            f"--trainer.devices {per_node} starts as many as SLURM gives, #SBATCH --ntasks-per-node={devices} as many "
            "as the configuration asks for.",
        )
    if nodes != setup.num_nodes:
        yield problem(
            "trainer.num_nodes",
            f"The job has {counted(nodes, 'node')}, but trainer.num_nodes is {setup.num_nodes}.",
            f"--trainer.num_nodes {nodes}, or #SBATCH --nodes={setup.num_nodes}.",
        )
    elif per_node is not None and int(per_node) == devices:
        yield ok("trainer", f"{said} and trainer.num_nodes is {nodes}, as the job has them.")


def _cores_and_gpus(environ: Mapping[str, str], gpus: int) -> Iterator[Finding]:
    if not _by_srun(environ):
        return
    per_node = environ.get("SLURM_NTASKS_PER_NODE", "1")
    bound = "SLURM_GPUS_PER_TASK" in environ or "SLURM_TRES_PER_TASK" in environ
    if bound and gpus < int(per_node):
        yield problem(
            "gpus-per-task",
            f"--gpus-per-task shows each of {per_node} tasks of this node only {counted(gpus, 'GPU')}; Lightning "
            "wants to see all and picks by local rank.",
            f"#SBATCH --gpus-per-node={per_node} (or --gres=gpu:{per_node}) in place of --gpus-per-task.",
        )
    elif environ.get("SLURM_GPUS_ON_NODE", "0") not in ("0", "") and gpus == 0:
        yield problem(
            "GPUs",
            f"SLURM_GPUS_ON_NODE is {environ['SLURM_GPUS_ON_NODE']}, but torch sees no GPU.",
            "The section devices says why; CUDA_VISIBLE_DEVICES must not be emptied in the batch script.",
        )


def job_facts(job: Mapping[str, str], now: datetime) -> Iterator[Finding]:
    """Check the remaining time of a job and whether it may be requeued, from ``scontrol show job``.

    Args:
        job: Fields of the output.
        now: Present local time.
    """
    try:
        minutes = (datetime.fromisoformat(job["EndTime"]) - now).total_seconds() / 60
    except (KeyError, ValueError):
        yield ok("time limit", f"None: TimeLimit={job.get('TimeLimit', 'unknown')}.")
    else:
        yield ok("time limit", f"{minutes:.0f} minutes are left of {job.get('TimeLimit')}.", minutes_left=minutes)
    if job.get("BatchFlag") == "0":
        yield ok("requeue", "Not a batch job: it ends with its shell and is never requeued.")
    elif job.get("Requeue") == "0":
        yield caution(
            "requeue",
            "The job may not be requeued: after a preemption or at its time limit somebody has to submit it again.",
            "#SBATCH --requeue",
        )
    elif job.get("Requeue") == "1":
        yield ok("requeue", "The job may be requeued.")


def check_signal(script: str) -> Iterator[Finding]:
    """Check that a batch script asks for a warning signal before its time limit.

    Args:
        script: Text of the script.
    """
    name = "signal"
    given = re.findall(r"^#SBATCH\s+--signal[=\s]+(\S+)", script, re.MULTILINE)
    remedy = "#SBATCH --signal=USR1@120"
    if not given:
        yield caution(
            name,
            "The batch script has no --signal: unless sbatch was given it, the job is killed at its time limit and "
            "loses what it did since the last checkpoint.",
            remedy,
        )
        return
    parts = re.fullmatch(r"(?:([BR]+):)?(?:SIG)?(\w+)(?:@(\d+))?", given[-1])
    number = parts[2] if parts else ""
    if parts is None or number not in ("USR1", "TERM", "10", "15"):
        yield problem(name, f"--signal={given[-1]} is not a signal that saves a run: USR1 and TERM do.", remedy)
    elif "B" in (parts[1] or ""):
        yield problem(
            name, f"--signal={given[-1]} goes to the batch script only, and srun's tasks never hear of it.", remedy
        )
    elif int(parts[3] or "60") < 30:
        yield caution(name, f"--signal={given[-1]} leaves little time for a step and a checkpoint.", remedy)
    else:
        yield ok(name, f"--signal={given[-1]}: the run saves in time.")


def _scontrol(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None
