"""Cores, threads and shared memory, compared with the needs of a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from robustseg.doctor.configuration import Setup
from robustseg.doctor.findings import Finding, caution, counted, mebibytes, ok, problem

# batches that torch's loader keeps in flight for each worker
_PREFETCH = 2
# the default of container engines
_CONTAINER_SHM = 64 * 2**20


def find_cores(environ: Mapping[str, str]) -> int:
    """Count the cores that this process may use: its CPU affinity, limited by SLURM's allocation."""
    affinity = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    slurm = environ.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min(affinity, int(slurm))) if slurm.isdigit() else affinity


def check_resources(
    environ: Mapping[str, str], setup: Setup | None, processes: int, sharing_cores: int
) -> Iterator[Finding]:
    """Check the resources of this process, and whether a run fits into them.

    Args:
        environ: Environment variables.
        setup: Resources of the run, if a configuration was given.
        processes: Number of training processes on this machine.
        sharing_cores: Number of these that share the cores of this process; srun gives each its own.
    """
    yield from compare_cores(find_cores(environ), environ, setup, sharing_cores)
    shm = Path("/dev/shm")
    if shm.is_dir():
        about = os.statvfs(shm)
        room = about.f_bavail * about.f_frsize
        yield compare_shm(room, about.f_blocks * about.f_frsize, setup, processes)
    elif sys.platform == "linux":
        yield problem("/dev/shm", "There is no /dev/shm.", "mount -t tmpfs tmpfs /dev/shm; or --data.num_workers 0.")


def compare_cores(cores: int, environ: Mapping[str, str], setup: Setup | None, processes: int = 1) -> Iterator[Finding]:
    """Compare threads and worker processes with the cores.

    Args:
        cores: Number of cores that this process may use.
        environ: Environment variables.
        setup: Resources of the run.
        processes: Number of training processes that share these cores.
    """
    yield ok("cores", f"{cores} for this process", cores=cores)
    slurm = environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdigit() and cores < int(slurm):
        yield caution(
            "cpus-per-task",
            f"SLURM_CPUS_PER_TASK is {slurm}, but this task is bound to {counted(cores, 'core')}: srun does not take "
            "--cpus-per-task from sbatch.",
            "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK in the batch script.",
        )
    share = max(1, cores // processes)
    text = environ.get("OMP_NUM_THREADS", "")
    if not text.strip().isdigit():
        yield caution(
            "OMP_NUM_THREADS",
            f"{'not set' if not text else f'{text!r} is no number'}: the number of threads, and with it the last bits "
            "of every result, depends on how and where a run is started.",
            f"export OMP_NUM_THREADS={share}",
        )
    elif int(text) * processes > cores:
        yield caution(
            "OMP_NUM_THREADS",
            f"{text} in each of {counted(processes, 'process')} on {counted(cores, 'core')}: threads wait for each "
            "other.",
            f"export OMP_NUM_THREADS={share}",
            threads=int(text),
        )
    else:
        yield ok(
            "OMP_NUM_THREADS", text if processes == 1 else f"{text} in each of {processes} processes", threads=int(text)
        )
    if setup is None:
        return
    workers = setup.num_workers * processes
    # A process that trains on a GPU leaves its core to no worker; a worker that waits for a batch needs none.
    if workers > cores:
        yield caution(
            "num_workers",
            f"{counted(setup.num_workers, 'data worker')} for each of {counted(processes, 'process')} on "
            f"{counted(cores, 'core')}: loading slows training down.",
            f"--data.num_workers {max(0, share - 1)}; the section data measures which number is best."
            + (" Or ask SLURM for more with --cpus-per-task." if "SLURM_JOB_ID" in environ else ""),
            workers=workers,
        )
    else:
        yield ok("num_workers", f"{setup.num_workers} for each of {counted(processes, 'process')}")


def compare_shm(room: int, size: int, setup: Setup | None, processes: int) -> Finding:
    """Check the room in ``/dev/shm``, where data workers pass batches; without it they hang or die of a bus error.

    Args:
        room: Free bytes.
        size: Total bytes.
        setup: Resources of the run.
        processes: Number of training processes on this machine.
    """
    name, text = "/dev/shm", f"{mebibytes(room)} of {mebibytes(size)} free"
    remedy = (
        "docker run --shm-size=8g or --ipc=host; mount -o remount,size=8G /dev/shm; or --data.num_workers 0, which "
        "needs none."
    )
    batch = None if setup is None else setup.batch_bytes
    if setup is None or batch is None:
        if size <= _CONTAINER_SHM:
            return caution(name, f"{text}: data workers die or hang when it is full.", remedy, free=room)
        return ok(name, text, free=room)
    # the training process uses one more
    need = processes * setup.num_workers and processes * (_PREFETCH * setup.num_workers + 1) * batch
    needed = (
        f"{text}; {counted(setup.num_workers, 'worker')} for {counted(processes, 'process')} need {mebibytes(need)}"
    )
    if need > room:
        return problem(name, f"{needed}: they die or hang when it is full.", remedy, free=room, need=need)
    if 2 * need > room or (need and size <= _CONTAINER_SHM):
        return caution(name, f"{needed}, which is close.", remedy, free=room, need=need)
    return ok(name, needed, free=room, need=need)
