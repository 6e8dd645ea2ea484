"""What of the machine this process may use: cores, memory and shared memory, whoever set the limit."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


class Cores(NamedTuple):
    """Limits on cores, from several places."""

    machine: int
    """Of the whole machine."""
    affinity: int
    """This process may be scheduled on."""
    quota: float | None
    """Of the control group: processor seconds per second."""
    slurm: int | None
    """``SLURM_CPUS_PER_TASK``."""

    @property
    def allotted(self) -> int:
        """What is left when all limits are kept, at least 1."""
        limits = [self.machine, self.affinity, self.quota, self.slurm]
        return max(1, int(min(limit for limit in limits if limit is not None)))


class Memory(NamedTuple):
    """Bytes of main memory."""

    total: int
    """Of the machine."""
    limit: int | None
    """Of the control group."""
    available: int
    """Until the machine or the control group has none left."""


def find_cores(environ: Mapping[str, str], root: Path = Path("/")) -> Cores:
    """Cores that this process may use.

    Args:
        environ: The environment's variables.
        root: Where ``proc`` and ``sys`` are.
    """
    machine = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if sys.platform == "linux" else machine
    slurm = environ.get("SLURM_CPUS_PER_TASK", "")
    return Cores(machine, affinity, _quota(root), int(slurm) if slurm.isdigit() else None)


def find_memory(root: Path = Path("/")) -> Memory | None:
    """Main memory that this process may use; None where the system does not say as Linux does.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    lines = _read(root / "proc/meminfo").splitlines()
    kibibytes = {line.partition(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
    if "MemTotal" not in kibibytes:
        return None
    total, available = kibibytes["MemTotal"] * 1024, kibibytes.get("MemAvailable", 0) * 1024
    limit = None
    for folder in _groups(root):
        for most, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            bound = _number(folder / most)
            if bound is None or bound >= total:
                continue
            limit = bound if limit is None else min(limit, bound)
            # cached files count as used, but are given up before anyone is killed
            cached = sum(
                int(line.split()[1])
                for line in _read(folder / "memory.stat").splitlines()
                if line.split()[0] == "inactive_file"
            )
            available = min(available, max(0, bound - (_number(folder / used) or 0) + cached))
    return Memory(total, limit, available)


def _quota(root: Path) -> float | None:
    quotas = []
    for folder in _groups(root):
        words = _read(folder / "cpu.max").split()
        if len(words) == 2 and words[0] != "max":
            quotas.append(int(words[0]) / int(words[1]))
        most, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if most is not None and most > 0 and period:
            quotas.append(most / period)
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups, versions 1 and 2, that hold this process, from the innermost outwards."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        mounted = root / "sys/fs/cgroup"
        base = mounted / controllers
        if not controllers:
            base = mounted / "unified" if (mounted / "unified").is_dir() else mounted
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts), -1, -1):
            # In a container the path may be that of the host, of which only the root is mounted here.
            folder = base.joinpath(*parts[:depth])
            if folder.is_dir():
                yield folder


def _number(path: Path) -> int | None:
    with contextlib.suppress(ValueError):
        return int(_read(path))
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
