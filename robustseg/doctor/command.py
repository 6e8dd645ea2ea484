"""``robustseg doctor``: from arguments to a report and an exit status."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robustseg.doctor.configuration import Setup, read_setup
from robustseg.doctor.devices import check_devices
from robustseg.doctor.findings import Finding, verdict_of
from robustseg.doctor.isolation import Check, run_isolated
from robustseg.doctor.output import open_console, print_section, summary, to_json
from robustseg.doctor.paths import check_paths
from robustseg.doctor.ranks import check_local, check_ranks
from robustseg.doctor.resources import check_resources, find_cores
from robustseg.doctor.slurm import Launch, check_slurm, find_launch
from robustseg.doctor.throughput import check_data, worker_counts
from robustseg.doctor.versions import check_versions
from robustseg.files import write_text
from robustseg.resume.runs import RunError

SECTIONS = {
    "versions": "software, as torch reports it, and pip check",
    "devices": "CPU and GPUs, and whether trainer.accelerator is here",
    "resources": "cores, threads, /dev/shm",
    "slurm": "the job's variables, time left, requeue and signal",
    "distributed": "gloo and NCCL between processes here, or all tasks of a job",
    "paths": "folders that a run writes to: atomic files, locks, room, speed",
    "data": "images per second for several numbers of workers",
}

_EPILOG = """\
All options of robustseg train are taken as well: with the run's own, above all
--config, the doctor compares trainer.devices, data.num_workers and the data
with this machine. Without, it measures the embedded scenes.

  robustseg doctor
  robustseg doctor --config data/camvid --data.root /data/camvid
  robustseg doctor --path /scratch/runs
  robustseg doctor --only slurm distributed
  srun robustseg doctor --only devices distributed
                            all tasks of a job join as training would

Exit status: 0 without a problem (cautions do not count), 1 with one, 2 for
options that are wrong."""


class _Options(NamedTuple):
    setup: Setup | None
    paths: tuple[str, ...]
    seconds: float
    launch: Launch | None


def doctor(args: Sequence[str]) -> int:
    """Examine this machine or this job, and print the findings with remedies.

    Args:
        args: Options of the doctor, and of ``robustseg train``.

    Raises:
        RunError: The findings cannot be written to the file of ``--json``.
    """
    parsed, rest = _parser().parse_known_args(args)
    if parsed.json is not None and not parsed.json.absolute().parent.is_dir():
        raise RunError(f"--json {parsed.json}: there is no folder {parsed.json.absolute().parent}; make it first.")
    setup = read_setup(rest) if rest else None
    launch = find_launch(os.environ)
    paths = tuple(parsed.path or [setup.root if setup is not None else "runs"])
    options = _Options(setup, paths, parsed.seconds or (1.0 if setup is None else 3.0), launch)
    names = _chosen(parsed.only, launch)
    console = open_console()
    sections: dict[str, list[Finding]] = {}
    seconds: dict[str, float] = {}
    for name in names:
        check, arguments, limit = _prepare(name, options)
        start = time.perf_counter()
        if console.is_terminal:
            with console.status(f"{name}: {SECTIONS[name]}"):
                sections[name] = run_isolated(check, arguments, limit)
        else:
            sections[name] = run_isolated(check, arguments, limit)
        seconds[name] = time.perf_counter() - start
        findings = sections[name]
        title = name
        if launch is not None and launch.rank != 0:
            # Rank 0 reports everything; other ranks report only their own problems.
            findings = [finding for finding in findings if finding.verdict != "ok"]
            title = f"{name}, rank {launch.rank} on {os.uname().nodename}"
        if findings:
            print_section(console, title, findings)
    if launch is None or launch.rank == 0:
        console.print(summary(sections))
    if parsed.json is not None:
        _write(parsed.json, launch, to_json(sections, seconds))
    return int(any(verdict_of(findings) == "problem" for findings in sections.values()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "robustseg doctor",
        description="Examine this machine, or this job, before a long run: what is there, whether it\nworks, and what "
        "to do if not.",
        epilog="sections:\n"
        + "\n".join(f"  {name:<12} {about}" for name, about in SECTIONS.items())
        + "\n\n"
        + _EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), metavar="SECTION", help="These sections; by default all."
    )
    parser.add_argument(
        "--path",
        action="append",
        metavar="FOLDER",
        help="A folder that runs are to be written to; can be given several times. By default "
        "trainer.default_root_dir, which is runs.",
    )
    parser.add_argument(
        "--seconds",
        type=_positive,
        help="Time to measure each number of data workers; by default 3, and 1 for the embedded scenes.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write all findings, and the figures behind them.")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds between 0 and 3600")
    return value


def _chosen(only: Sequence[str] | None, launch: Launch | None) -> list[str]:
    names = [name for name in SECTIONS if only is None or name in only]
    if launch is None:
        return names
    # Early, while the ranks are still in step: joining waits for the slowest.
    names.sort(key=lambda name: name != "distributed")
    if launch.rank != 0:
        own = {"distributed", "devices"} | ({"versions", "resources", "paths"} if launch.local_rank == 0 else set())
        names = [name for name in names if name in own]
    return names


def _prepare(name: str, options: _Options) -> tuple[Check, tuple[Any, ...], float]:
    """Return the function of a section, its arguments and its time limit in seconds."""
    setup, environ, launch = options.setup, dict(os.environ), options.launch
    cores = find_cores(environ)
    counts = len(worker_counts(cores, setup.num_workers if setup is not None else 0))
    prepared: dict[str, tuple[Check, tuple[Any, ...], float]] = {
        "versions": (check_versions, (), 60),
        "devices": (check_devices, (setup,), 120),
        "resources": (_check_resources, (environ, setup, launch), 60),
        "slurm": (_check_slurm, (environ, setup), 60),
        "distributed": (_check_distributed, (launch,), 240),
        "paths": (check_paths, (options.paths, environ), 30 + 30 * len(options.paths)),
        "data": (_check_data, (setup, cores, options.seconds), 60 + 20 * counts * options.seconds),
    }
    return prepared[name]


def _count_gpus() -> Iterator[Finding]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    yield Finding("count", "ok", str(count))


def _gpus() -> int:
    """Count the GPUs that torch can use, in another process, since a process that has used CUDA cannot fork."""
    found = run_isolated(_count_gpus, (), 60)
    return int(found[0].text) if found and found[0].name == "count" else 0


def _check_resources(environ: dict[str, str], setup: Setup | None, launch: Launch | None) -> Iterator[Finding]:
    if launch is not None:
        processes = int(environ.get("LOCAL_WORLD_SIZE") or environ.get("SLURM_NTASKS_PER_NODE") or 1)
    elif setup is not None:
        processes = setup.processes(0 if setup.accelerator == "cpu" else _gpus())
    else:
        processes = 1
    bound = launch is not None and launch.by == "srun"
    yield from check_resources(environ, setup, processes, 1 if bound else processes)


def _check_slurm(environ: dict[str, str], setup: Setup | None) -> Iterator[Finding]:
    yield from check_slurm(environ, setup, _gpus())


def _check_distributed(launch: Launch | None) -> Iterator[Finding]:
    gpus = _gpus()
    if launch is not None and launch.world_size > 1:
        yield from check_ranks(launch, gpus)
    else:
        yield from check_local(gpus)


def _check_data(setup: Setup | None, cores: int, seconds: float) -> Iterator[Finding]:
    yield from check_data(setup, cores, _gpus(), seconds)


def _write(path: Path, launch: Launch | None, report: dict[str, Any]) -> None:
    if launch is not None and launch.rank != 0:
        path = path.with_name(f"{path.stem}.rank{launch.rank}{path.suffix}")
    try:
        write_text(json.dumps(report, indent=1, default=str) + "\n", path)
    except OSError as error:
        raise RunError(f"--json {path}: cannot be written ({error.strerror or error}); name another file.") from error
