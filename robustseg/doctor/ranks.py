"""Ranks that join as in training, and a timed collective: all tasks of a job, or a few on this machine."""

from __future__ import annotations

import os
import platform
import re
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from torch import distributed

import robustseg
from robustseg.doctor.findings import Finding, caution, ok, problem
from robustseg.doctor.isolation import CONTEXT
from robustseg.doctor.slurm import Launch

JOIN_SECONDS = 60.0
_NUMBERS = 2**20  # of float32: 4 MiB
_SLOW = 1.5
# so that other ranks can still read why rank 0 gives up
_LINGER = 1.0


class Rank(NamedTuple):
    """Facts that a rank sends to all others."""

    rank: int
    host: str
    work: float
    """Seconds for a piece of work that is the same on every rank."""
    versions: str
    gpus: int


def check_local(gpus: int, limit: float = JOIN_SECONDS) -> Iterator[Finding]:
    """Join processes on this machine, one per GPU, or two without GPUs, and time a collective.

    Args:
        gpus: Number of GPUs that this process sees.
        limit: Seconds to wait for the processes.
    """
    # CUDA does not survive a fork
    context: Any = get_context("spawn") if gpus else CONTEXT
    world_size, port = max(2, gpus), _free_port()
    receiver, sender = context.Pipe(duplex=False)
    processes = [
        context.Process(target=_local_rank, args=(rank, world_size, port, gpus, limit, sender), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    sender.close()
    try:
        yield from _received(receiver, time.monotonic() + 2 * limit)
    finally:
        for process in processes:
            process.kill()
            process.join(5)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _local_rank(rank: int, world_size: int, port: int, gpus: int, limit: float, sender: Connection) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    findings = check_ranks(Launch("torchrun", rank, world_size, rank), gpus, limit)
    if rank:
        sender.close()  # rank 0 reports for all
        list(findings)
    for finding in findings if rank == 0 else ():
        sender.send(tuple(finding))


def _received(receiver: Connection, deadline: float) -> Iterator[Finding]:
    while wait([receiver], timeout=max(0.0, deadline - time.monotonic())):
        try:
            yield Finding(*receiver.recv())
        except EOFError:
            return
    yield problem("ranks", "processes of this machine did not come back in time.", _reach())


def check_ranks(launch: Launch, gpus: int, limit: float = JOIN_SECONDS) -> Iterator[Finding]:
    """Join the other tasks of the job, and compare the ranks.

    Args:
        launch: Place of this process among the tasks.
        gpus: Number of GPUs that this process sees.
        limit: Seconds to wait for the others.
    """
    host = socket.gethostname()
    try:
        address, port = _main_address(launch)
    except (RuntimeError, ValueError, KeyError) as error:
        yield problem("ranks", first_line(error), "The section slurm says what is missing.")
        return
    where = f"rank {launch.rank} of {launch.world_size} on {host}, main address {address}:{port}"
    try:
        start = time.perf_counter()
        store = _store(launch, address, port, limit)
        missing = _everybody(store, launch, host, limit)
        if missing:
            yield problem("ranks", f"{where}: {missing} within {limit:.0f} s.", _reach())
            return
        distributed.init_process_group(
            "gloo",
            store=distributed.PrefixStore("gloo", store),  # type: ignore[attr-defined]
            rank=launch.rank,
            world_size=launch.world_size,
            timeout=timedelta(seconds=limit),
        )
        joined = time.perf_counter() - start
        seconds = timed_reduction(torch.device("cpu"), launch.rank, launch.world_size)
        ranks = _gather(Rank(launch.rank, host, _work(), _versions(), gpus), launch.world_size)
        yield from compare_ranks(ranks, joined, seconds)
        yield from _nccl(ranks, launch, gpus, limit)
        _leave(store, launch, limit)
    except (RuntimeError, ValueError, OSError) as error:
        yield problem("ranks", f"{where}: {first_line(error)}", _reach())


def _main_address(launch: Launch) -> tuple[str, int]:
    if launch.by == "torchrun":
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    environment = SLURMEnvironment(auto_requeue=False)
    return environment.main_address, environment.main_port


def _store(launch: Launch, address: str, port: int, limit: float) -> Any:
    # torchrun's agent already serves at that port
    serving = launch.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        address, port, None, serving, timeout=timedelta(seconds=limit), wait_for_workers=False, multi_tenant=True
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return distributed.PrefixStore(f"robustseg-doctor-{attempt}", store)  # type: ignore[attr-defined]


def _everybody(store: Any, launch: Launch, host: str, limit: float) -> str | None:
    """Wait until all ranks have joined; return None, or a message about the missing ones."""
    if store.add(f"number/{launch.rank}", 1) > 1:
        return f"another task is rank {launch.rank} as well"
    store.set(f"host/{launch.rank}", host)
    if launch.rank != 0:
        # Wait for rank 0's result, since rank 0 serves the store, which ends with it.
        store.wait(["missing"], timedelta(seconds=limit + _LINGER))
        missing: str = store.get("missing").decode()
        return missing or None
    keys = [f"host/{rank}" for rank in range(launch.world_size)]
    try:
        store.wait(keys, timedelta(seconds=limit))
    except (RuntimeError, ValueError):
        absent = [rank for rank, key in enumerate(keys) if not store.check([key])]
        missing = f"of {launch.world_size} ranks did not come: {', '.join(map(str, absent))}"
        store.set("missing", missing)
        time.sleep(_LINGER)
        return missing
    store.set("missing", "")
    return None


def _gather(own: Rank, world_size: int) -> list[Rank]:
    gathered: list[Any] = [None] * world_size
    distributed.all_gather_object(gathered, tuple(own))
    return [Rank(*one) for one in gathered]


def _work() -> float:
    """Measure the seconds for a fixed piece of work on the CPU."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(512, 512, generator=generator)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - start)
    return best


def _versions() -> str:
    return f"robustseg {robustseg.__version__}, torch {torch.__version__}, python {platform.python_version()}"


def compare_ranks(ranks: list[Rank], joined: float, seconds: float) -> Iterator[Finding]:
    """Compare all ranks with one another.

    Args:
        ranks: Facts from all ranks.
        joined: Seconds until all had joined.
        seconds: Duration of an all-reduce of 4 MiB.
    """
    hosts = Counter(one.host for one in ranks)
    shown = ", ".join(f"{host} ({count})" for host, count in hosts.items())
    slowest = max(ranks, key=lambda one: one.work)
    median = statistics.median(one.work for one in ranks)
    factor = slowest.work / median
    yield ok(
        "ranks",
        f"{len(ranks)} ranks on {shown} joined in {joined:.1f} s and reduce 4 MiB in {seconds * 1e3:.1f} ms (gloo)",
        ranks=[one._asdict() for one in ranks],
    )
    text = f"rank {slowest.rank} on {slowest.host} takes {factor:.1f} times the median for the same work"
    if factor > _SLOW:
        yield caution(
            "slowest rank",
            f"{text}: all others wait for it at every step.",
            f"Look for other processes or fewer cores on {slowest.host}; --exclude={slowest.host} leaves it out.",
        )
    else:
        yield ok("slowest rank", text)
    differing = {one.versions: f"rank {one.rank} on {one.host}" for one in reversed(ranks)}
    if len(differing) > 1:
        told = "; ".join(f"{who} has {versions}" for versions, who in differing.items())
        yield problem("same versions", f"The ranks differ: {told}.", "Use one environment that all nodes see.")
    if len({one.gpus for one in ranks}) > 1:
        told = ", ".join(f"rank {one.rank} on {one.host}: {one.gpus}" for one in ranks)
        yield problem(
            "same GPUs", f"The ranks see different numbers of GPUs: {told}.", "Ask for the same on each node."
        )


def _nccl(ranks: list[Rank], launch: Launch, gpus: int, limit: float) -> Iterator[Finding]:
    if min(one.gpus for one in ranks) == 0:
        yield ok("NCCL across ranks", "not checked: not every rank has a GPU")
        return
    device = torch.device("cuda", launch.local_rank if gpus > launch.local_rank else 0)
    torch.cuda.set_device(device)
    group: Any = distributed.new_group(backend="nccl", timeout=timedelta(seconds=limit))
    best = timed_reduction(device, launch.rank, launch.world_size, group)
    yield ok("NCCL across ranks", f"{len(ranks)} ranks reduce 4 MiB in {best * 1e3:.2f} ms")


def _leave(store: Any, launch: Launch, limit: float) -> None:
    """Leave the store; rank 0, which serves it, waits until no rank needs it."""
    distributed.destroy_process_group()
    store.set(f"done/{launch.rank}", "")
    if launch.rank == 0:
        store.wait([f"done/{rank}" for rank in range(launch.world_size)], timedelta(seconds=limit))


def _reach() -> str:
    chosen = {key: os.environ[key] for key in ("MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME") if key in os.environ}
    now = ", ".join(f"{key}={value}" for key, value in chosen.items())
    return (
        "Every node must reach the main address: export MASTER_ADDR (a name that all nodes resolve), another "
        f"MASTER_PORT if it is taken, and GLOO_SOCKET_IFNAME (the nodes' common network, here one of: "
        f"{', '.join(interfaces())}); ask whether a firewall is between them. Now {now or 'none of them is set'}."
    )


def timed_reduction(device: torch.device, rank: int, world_size: int, group: Any = None) -> float:
    """Measure the seconds of an all-reduce of 4 MiB within a process group, the best of three.

    Raises:
        RuntimeError: The sum is wrong.
    """
    best = float("inf")
    for _ in range(4):
        numbers = torch.full((_NUMBERS,), float(rank + 1), device=device)
        start = time.perf_counter()
        distributed.all_reduce(numbers, group=group)
        total = float(numbers[-1])  # waits for the device
        best = min(best, time.perf_counter() - start)
        expected = world_size * (world_size + 1) / 2
        if total != expected or float(numbers[0]) != expected:
            raise RuntimeError(f"the sum over the ranks is {total}, not {expected}")
    return best


def interfaces() -> list[str]:
    """List the names of this machine's network interfaces, without those that are down."""
    try:
        names = [name for _, name in socket.if_nameindex()]
    except OSError:
        return []
    return [name for name in names if not _is_down(Path("/sys/class/net") / name / "operstate")]


def _is_down(state: Path) -> bool:
    try:
        return state.read_text().strip() == "down"
    except OSError:
        return False


def first_line(error: Exception) -> str:
    """Return an error's message without the C++ stack that torch appends."""
    message = re.sub(r"\[enforce fail at [^\]]*\] [^.]*\. ", "", str(error))
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
