"""Do processes reach each other: two on this machine, one per GPU, or all tasks of a job?"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed

from robustseg.doctor.findings import Finding, caution, counted, ok, problem
from robustseg.doctor.isolation import CONTEXT

GLOO_SECONDS = 15.0
NCCL_SECONDS = 60.0
_NUMBERS = 2**20  # of float32: 4 MiB


class Answer(NamedTuple):
    """What a group of local processes came to."""

    seconds: float
    """For one all-reduce of 4 MiB; the slowest process's."""
    error: str | None
    """What the first process that failed said."""


def check_local(environ: Mapping[str, str], gpus: int) -> Iterator[Finding]:
    """Processes of this machine join and reduce, on gloo and, with GPUs, on NCCL.

    Args:
        environ: The environment's variables.
        gpus: GPUs that this process sees.
    """
    if not distributed.is_available() or not distributed.is_gloo_available():
        yield problem("gloo", "This build of torch has no gloo.", "Install torch from https://pytorch.org.")
        return
    yield _host_name()
    yield _gloo(environ)
    if gpus == 0:
        yield ok("NCCL", "not checked: no GPU")
    elif not distributed.is_nccl_available():
        yield caution(
            "NCCL", "This build of torch has no NCCL: training on several GPUs is slow.", "Install torch with CUDA."
        )
    else:
        answer = reduce_locally("nccl", gpus, NCCL_SECONDS)
        if answer.error is None:
            yield ok("NCCL", f"{counted(gpus, 'GPU')} of this machine reduce 4 MiB in {answer.seconds * 1e3:.2f} ms")
        else:
            yield problem(
                "NCCL",
                f"{counted(gpus, 'GPU')} of this machine cannot reduce: {answer.error}",
                "NCCL_DEBUG=INFO robustseg doctor --only distributed says where; try NCCL_P2P_DISABLE=1 (a virtual "
                "machine or IOMMU), NCCL_SOCKET_IFNAME=lo, a larger /dev/shm, or a newer driver.",
            )


def interfaces() -> list[str]:
    """Names of this machine's network interfaces, but for those that are down."""
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


def _host_name() -> Finding:
    name = socket.gethostname()
    try:
        addresses = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None, socket.AF_INET)})
    except OSError as error:
        return caution(
            "host name",
            f"{name} does not resolve ({error.strerror or error}): gloo may pick the wrong interface.",
            f"Add a line for {name} to /etc/hosts, or export GLOO_SOCKET_IFNAME, one of: {', '.join(interfaces())}.",
        )
    return ok("host name", f"{name} is {', '.join(addresses)}", addresses=addresses)


def _gloo(environ: Mapping[str, str]) -> Finding:
    answer = reduce_locally("gloo", 2, GLOO_SECONDS)
    if answer.error is None:
        return ok("gloo", f"two processes of this machine reduce 4 MiB in {answer.seconds * 1e3:.1f} ms")
    chosen, names = environ.get("GLOO_SOCKET_IFNAME"), interfaces()
    text = f"two processes of this machine cannot reduce: {answer.error}"
    if chosen and not set(chosen.split(",")) <= set(names):
        remedy = f"GLOO_SOCKET_IFNAME is {chosen}, which is not here; set it to one of: {', '.join(names)}."
    elif chosen:
        remedy = f"Unset GLOO_SOCKET_IFNAME (it is {chosen}), or set it to another of: {', '.join(names)}."
    else:
        loopback = reduce_locally("gloo", 2, GLOO_SECONDS, "lo")
        helps = "works: this machine's name leads to an address that is not its own" if not loopback.error else "fails"
        remedy = (
            f"With GLOO_SOCKET_IFNAME=lo it {helps}. Export that on one machine, on several the interface that they "
            f"share, one of: {', '.join(names)}."
        )
    return problem("gloo", text, remedy)


def reduce_locally(backend: str, world_size: int, limit: float, interface: str | None = None) -> Answer:
    """Let processes of this machine join over loopback and all-reduce.

    Args:
        backend: ``gloo`` or ``nccl``.
        world_size: Processes; on NCCL as many GPUs.
        limit: Seconds after which they are killed.
        interface: Overrides ``GLOO_SOCKET_IFNAME``.
    """
    # A free port, and no race for it: the server is here before anyone is told.
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", 0, world_size + 1, is_master=True, timeout=timedelta(seconds=limit), wait_for_workers=False
    )
    # CUDA does not survive a fork
    context: Any = CONTEXT if backend == "gloo" else get_context("spawn")
    processes, receivers = [], []
    for rank in range(world_size):
        receiver, sender = context.Pipe(duplex=False)
        arguments = (backend, rank, world_size, store.port, limit, interface, sender)
        process = context.Process(target=_join, args=arguments, daemon=True)
        process.start()
        sender.close()
        processes.append(process)
        receivers.append(receiver)
    try:
        return _collect(receivers, time.monotonic() + limit, limit)
    finally:
        for process in processes:
            process.kill()
            process.join(5)


def _collect(receivers: list[Connection], deadline: float, limit: float) -> Answer:
    waiting, slowest = list(receivers), 0.0
    while waiting:
        ready = wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            return Answer(slowest, f"nothing came back within {limit:.0f} s")
        for receiver in ready:
            assert isinstance(receiver, Connection)
            waiting.remove(receiver)
            try:
                seconds, error = receiver.recv()
            except EOFError:
                seconds, error = 0.0, "a process ended without a word"
            if error is not None:
                return Answer(slowest, error)
            slowest = max(slowest, seconds)
    return Answer(slowest, None)


def _join(
    backend: str, rank: int, world_size: int, port: int, limit: float, interface: str | None, sender: Connection
) -> None:
    """One of the processes."""
    try:
        torch.set_num_threads(1)
        if interface is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = interface
        timeout = timedelta(seconds=limit)
        store = distributed.TCPStore(  # type: ignore[attr-defined]
            "127.0.0.1", port, world_size + 1, is_master=False, timeout=timeout
        )
        distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
        device = torch.device("cpu") if backend == "gloo" else torch.device("cuda", rank)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        sender.send((timed_reduction(device, rank, world_size), None))
        # who leaves first would break the other's connection
        distributed.barrier()
    except Exception as error:
        sender.send((0.0, first_line(error)))


def timed_reduction(device: torch.device, rank: int, world_size: int) -> float:
    """Seconds of an all-reduce of 4 MiB, the best of three, within the default process group.

    Raises:
        RuntimeError: The sum is wrong.
    """
    best = float("inf")
    for _ in range(4):
        numbers = torch.full((_NUMBERS,), float(rank + 1), device=device)
        start = time.perf_counter()
        distributed.all_reduce(numbers)
        total = float(numbers[-1])  # waits for the device
        best = min(best, time.perf_counter() - start)
        expected = world_size * (world_size + 1) / 2
        if total != expected or float(numbers[0]) != expected:
            raise RuntimeError(f"the sum over the ranks is {total}, not {expected}")
    return best


def first_line(error: Exception) -> str:
    """A message without the C++ stack that torch appends."""
    message = re.sub(r"\[enforce fail at [^\]]*\] [^.]*\. ", "", str(error))
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
