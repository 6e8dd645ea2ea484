"""The processes of cluster_costs.py's runs. Slow imports are left to these processes, which do them once for all."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster_costs_case import Run

Results = list[dict[str, Any]]
"""Measurements of a run's processes, see cluster_costs_run.py."""

LIMIT_S = 900
"""Seconds after which a run is ended."""


class Processes:
    """A starter of runs with one device, precision and number of threads.

    CPU processes are forked from a server that has imported everything, on systems with a fork server: starting each
    one afresh would take most of the time. GPU processes do start afresh, since the server's imports may touch the
    GPU's driver, which does not survive a fork.

    Args:
        device: ``cpu`` or ``cuda``.
        precision: Lightning's precision setting.
        threads: Number of threads per process.
        folder: Parent of each run's temporary folder; None for the system's.
    """

    def __init__(self, device: str, precision: str, threads: int, folder: str | None):
        self.common = {"device": device, "precision": precision, "threads": threads}
        self.folder = folder
        os.environ["OMP_NUM_THREADS"] = str(threads)
        forks = device == "cpu" and "forkserver" in multiprocessing.get_all_start_methods()
        self.context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            self.context.set_forkserver_preload(["robustseg.cli.train"])
        self.gpus: list[str] | None = None
        if device == "cuda":
            with tempfile.TemporaryDirectory() as found:
                self._start([(_list_gpus, ())], Path(found))
                self.gpus = json.loads(Path(found, "process0.json").read_text(encoding="utf-8"))
            if not self.gpus:
                sys.exit("--device cuda: torch finds no GPU here; use --device cpu.")

    def machine(self) -> str:
        """Describe versions, devices and the file system, for the record."""
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "pytorch-lightning"))
        on = f"{len(self.gpus)} × {self.gpus[0]}, " if self.gpus else ""
        folder = Path(self.folder or tempfile.gettempdir()).resolve()
        return (
            f"python {platform.python_version()}, {versions}, on {on}{os.cpu_count()} CPU cores "
            f"({platform.machine()}); checkpoints on {_file_system(folder)}"
        )

    def run(self, run: Run) -> Results:
        """Measure a run with a process per rank."""
        return self._measure([run] * run.ranks)

    def side_by_side(self, run: Run, count: int) -> Results:
        """Measure ``count`` copies of a run of one process at the same time."""
        return self._measure([replace(run, place=place) for place in range(count)])

    def _measure(self, runs: Sequence[Run]) -> Results:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            port = _free_port()
            calls: list[Any] = []
            for number, run in enumerate(runs):
                here = replace(run, **self.common, port=port, folder=str(Path(folder, f"run{run.place}")))
                calls.append((_measure_run, (here, number if run.ranks > 1 else 0)))
            self._start(calls, Path(folder))
            paths = [Path(folder, f"process{number}.json") for number in range(len(runs))]
            return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def _start(self, calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], folder: Path) -> None:
        """Run each call in a process of its own; all end with the first that fails."""
        processes = [
            self.context.Process(target=_call, args=(str(folder / f"process{number}"), *call), daemon=True)
            for number, call in enumerate(calls)
        ]
        until = time.monotonic() + LIMIT_S
        try:
            for process in processes:
                process.start()
            while any(process.is_alive() for process in processes):
                if time.monotonic() > until or any(process.exitcode for process in processes):
                    break
                time.sleep(0.02)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
        for number, process in enumerate(processes):
            process.join()
            if process.exitcode:
                log = (folder / f"process{number}.log").read_text(encoding="utf-8", errors="replace")
                sys.exit(f"{log[-4000:]}\nthis run ended with status {process.exitcode}: {calls[number][1]}")


def _call(path: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Run a function in the new process: write its result to ``path``.json and its output to ``path``.log."""
    log = os.open(f"{path}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    Path(f"{path}.json").write_text(json.dumps(function(*arguments)), encoding="utf-8")


def _measure_run(run: Run, rank: int) -> Any:
    from cluster_costs_run import measure

    return measure(run, rank)


def _list_gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _file_system(folder: Path) -> str:
    """Return the type of a folder's file system: on tmpfs, for example, fsync costs nothing."""
    try:
        lines = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "an unknown file system"
    holding = [(len(Path(at).parts), kind) for _, at, kind, *_ in lines if folder.is_relative_to(at)]
    return max(holding)[1] if holding else "an unknown file system"
