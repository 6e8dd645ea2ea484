"""Connections among the ranks of a run, over which each hears at once how another one ended."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import socket
import threading
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

KEEPALIVE_S = 30
"""Seconds without a sign of life from another host's network stack after which it is taken for lost."""

LEAVE_S = 20
"""Seconds within which all ranks must follow one that leaves because it was told to."""

_KEY = "robustseg/failure_hub"


@dataclass(frozen=True)
class Failure:
    """How a rank failed: what the others are told."""

    rank: int
    where: str
    """Host and process."""
    error: str
    """One line."""
    status: int = 1
    """Exit status of all ranks."""

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.where}) {self.error}"


@dataclass(frozen=True)
class Rendezvous:
    """Where the ranks of a run find one another: the address of the process group's store."""

    rank: int
    world_size: int
    address: str
    port: int

    @classmethod
    def of_slurm_task(cls) -> Rendezvous | None:
        """This task among those of a SLURM step, which may be ranks of one run; None outside of one."""
        if "SLURM_STEP_ID" not in os.environ or not SLURMEnvironment.detect():
            return None
        tasks = SLURMEnvironment(auto_requeue=False)
        return cls(tasks.global_rank(), tasks.world_size(), tasks.main_address, tasks.main_port)

    def store(self, timeout: timedelta) -> Any:
        """A client of the process group's store, a ``TCPStore``, which rank 0 starts if it is not there yet.

        Raises:
            RuntimeError: It cannot be reached in time.
        """
        # torchrun's agent has one running; elsewhere the process group of rank 0 will share the one started here.
        host = self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
        return torch.distributed.TCPStore(  # type: ignore[attr-defined]
            self.address, self.port, None, host, timeout=timeout, wait_for_workers=False, multi_tenant=True
        )

    @property
    def key(self) -> str:
        """Key of the hub's address; a store that outlives a restart by torchrun has one for each start."""
        return f"{_KEY}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"


def send(link: socket.socket, message: dict[str, Any]) -> None:
    """Send one message, a line of JSON.

    Raises:
        OSError: The other side is gone.
    """
    link.sendall(json.dumps(message).encode() + b"\n")


def keep_alive(link: socket.socket) -> None:
    """Have the kernel find out about a lost host: it answers also for a process that is busy or stopped."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_S // 3),
        ("TCP_KEEPINTVL", KEEPALIVE_S // 6),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", 1000 * KEEPALIVE_S),
    ):
        if hasattr(socket, option):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


@dataclass
class _Member:
    link: socket.socket
    rank: int | None = None
    where: str = ""
    finished: bool = False
    received: bytes = b""


class FailureHub(threading.Thread):
    """On rank 0: tells every rank of the first failure, also those that connect after it.

    A connection that ends before its rank said that it has finished is a failure too: the kernel closes it with the
    process, whatever ended that. Nothing is sent while all goes well.

    Args:
        world_size: Number of ranks.
    """

    def __init__(self, world_size: int):
        super().__init__(name="failure-hub", daemon=True)
        self.world_size = world_size
        self.token = secrets.token_hex(8)
        self.failure: Failure | None = None
        self.settled: set[int] = set()
        """Ranks that need not be told of a failure any more: they know of one, or are gone."""
        self.changed = threading.Condition()
        # All interfaces, as the store does: the address that other hosts know need not be an interface of this one.
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._listener = socket.create_server(("", 0), family=family, dualstack_ipv6=both, backlog=1024)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._members: dict[int, _Member] = {}
        self._leaving: Failure | None = None
        self._deadline: float | None = None

    @property
    def address(self) -> dict[str, Any]:
        """Port and token that a rank needs to connect."""
        return {"port": self._listener.getsockname()[1], "token": self.token}

    def sockets(self) -> list[socket.socket]:
        """All that are open: a forked process must close its copies, for their ends to be this process's."""
        return [self._listener, *(member.link for member in list(self._members.values()))]

    def others_have_finished(self) -> bool:
        """Whether no rank but 0 that ever connected is still at work."""
        return all(member.finished or member.rank in (0, None) for member in list(self._members.values()))

    def run(self) -> None:
        """Serve until the process ends."""
        while True:
            wait = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            if wait == 0.0:
                self._deadline = None
                if self._leaving is not None and not all(member.finished for member in self._members.values()):
                    self._failed(self._leaving)
            for key, _ in self._selector.select(wait):
                if key.fileobj is self._listener:
                    link, _ = self._listener.accept()
                    keep_alive(link)
                    self._members[link.fileno()] = _Member(link)
                    self._selector.register(link, selectors.EVENT_READ)
                else:
                    self._read(self._members[key.fd])
            with self.changed:
                self.changed.notify_all()

    def _read(self, member: _Member) -> None:
        try:
            data, reason = member.link.recv(65536), ""
        except OSError as error:
            data, reason = b"", error.strerror or str(error)
        if not data:
            self._lost(member, reason)
            return
        *lines, member.received = (member.received + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
                if member.rank is None:
                    if message["token"] != self.token:
                        raise ValueError("not of this run")
                    member.rank, member.where = int(message["rank"]), str(message["where"])
                    self._tell(member)
                elif "failed" in message:
                    self._failed(Failure(**message["failed"]))
                elif "finished" in message:
                    member.finished = True
                    if message["finished"] is not None:
                        self._leaving = self._leaving or Failure(**message["finished"])
                        self._deadline = self._deadline or time.monotonic() + LEAVE_S
            except (ValueError, KeyError, TypeError):  # no rank of this run
                self._close(member)
                return

    def _lost(self, member: _Member, reason: str) -> None:
        self._close(member)
        if member.rank is not None and member.rank not in self.settled:
            self.settled.add(member.rank)
            if not member.finished:
                self._failed(Failure(member.rank, member.where, without_a_word(reason)))

    def _close(self, member: _Member) -> None:
        self._selector.unregister(member.link)
        self._members.pop(member.link.fileno(), None)
        member.link.close()

    def _failed(self, failure: Failure) -> None:
        self.failure = self.failure or failure
        # Rank 0 last: Lightning's launcher ends every process of this host when it goes.
        for member in sorted(self._members.values(), key=lambda member: -(member.rank or 0)):
            self._tell(member)

    def _tell(self, member: _Member) -> None:
        if self.failure is None or member.rank is None or member.rank in self.settled:
            return
        self.settled.add(member.rank)
        with contextlib.suppress(OSError):  # it has gone in the meantime
            send(member.link, {"failed": asdict(self.failure)})


def without_a_word(reason: str) -> str:
    """What is known of a rank whose connection ended.

    Args:
        reason: Of the system, for a connection that broke.
    """
    how = f" (connection: {reason})" if reason else ""
    return (
        f"has ended without a word{how}: killed by a signal, such as the kernel's when memory runs out (see dmesg or "
        "the job's accounting), or its host is lost"
    )
