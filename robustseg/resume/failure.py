"""One rank's failure ends all ranks at once, with its message, instead of leaving them in a collective."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import asdict
from datetime import timedelta
from types import TracebackType

import pytorch_lightning as pl
from pytorch_lightning.strategies import ParallelStrategy

from robustseg.data.loading import end_workers
from robustseg.resume.ending import exit_status, how_it_ended, is_consequence, is_no_failure, one_line
from robustseg.resume.failure_hub import Failure, FailureHub, Rendezvous, keep_alive, send, without_a_word
from robustseg.resume.preemption import REQUEUE, Preempted

CONNECT_S = 30
"""How long a rank that fails at the start waits for the others to be there, so that they can be told."""
TEARDOWN_S = 10
"""How long a rank that has failed may clear up: what waits for other ranks there never ends."""
_EXPLANATION_S = 5
"""How long a broken collective waits for the failure that broke it."""
_TURN_S = 2
"""How long a rank waits for the one that is to leave first."""

_CURRENT: ContextVar[FailTogether | None] = ContextVar("fail_together", default=None)


class FailTogether:
    """Around all that the ranks of a run do: what ends one of them ends the others, in whatever they are waiting.

    Every rank has a connection to rank 0, watched by a thread that sleeps until something arrives. A rank that fails
    sends one line about its error, prints the whole and ends; the others print that line and end with its exit status,
    by ``os._exit``, as they may hang in a collective. A rank that is killed is noticed as its connection is closed; a
    host that is lost, or that cannot be reached for 30 s, by the kernel's keep-alive. Nothing is sent while all goes
    well, and a rank that is merely busy, whatever with, is not taken for dead.

    On one process it does nothing.

    Args:
        describe: What a rank prints of its own exception.

    Attributes:
        write_out: Called before a rank ends because of another one, to finish what it is writing.
    """

    def __init__(self, describe: Callable[[BaseException], str]):
        self.write_out: Callable[[], object] = lambda: None
        self._describe = describe
        self._lock = threading.RLock()
        self._place: Rendezvous | None = None
        self._hub: FailureHub | None = None
        self._link: socket.socket | None = None
        self._first: Failure | None = None
        self._own: Failure | None = None
        self._text = ""
        self._told_to_go = ""
        self._ending = False
        self._finished = False
        self._connected, self._heard, self._alone = threading.Event(), threading.Event(), threading.Event()

    @staticmethod
    def current() -> FailTogether | None:
        """The one whose ``with`` block this is."""
        return _CURRENT.get()

    def join(self, place: Rendezvous) -> None:
        """Watch the other ranks from now on, and let them watch this one.

        Args:
            place: Where the process group will be, or is.
        """
        if self._place is not None or place.world_size == 1:
            return
        self._place = place
        if place.rank == 0:
            self._hub = FailureHub(place.world_size)
            self._hub.start()
        _close_in_children(self)
        threading.Thread(target=self._watch, name="failure-watch", daemon=True).start()

    def announce(self, error: BaseException) -> None:
        """Tell the other ranks that this one fails; it has :data:`TEARDOWN_S` from now on to end by itself.

        To be called wherever an exception passes on its way up; only the first call counts.
        """
        if isinstance(error, Preempted):
            self._told_to_go = one_line(error)  # not itself: with its frames it would keep data workers alive
        if self._place is None or self._own is not None or is_no_failure(error):
            return
        # Where another rank's end has torn this one's connections, that rank is to be named; the thread ends this one.
        if is_consequence(error) and self._heard.wait(_EXPLANATION_S):
            threading.Event().wait()
        failure = Failure(self._place.rank, _here(), how_it_ended(error), exit_status(error))
        with self._lock:
            self._own, self._text = failure, self._describe(error)
        if not self._connected.wait(1):  # at the start of a run
            self._say()
        until = time.monotonic() + CONNECT_S
        while not (self._connected.wait(0.05) or self._alone.is_set()) and time.monotonic() < until:
            pass
        if self._link is not None:
            with contextlib.suppress(OSError):
                send(self._link, {"failed": asdict(failure)})
                self._heard.wait(_EXPLANATION_S)
        deadline = threading.Timer(TEARDOWN_S, self._end)
        deadline.daemon = True
        deadline.start()

    def __enter__(self) -> FailTogether:
        self._token = _CURRENT.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _CURRENT.reset(self._token)
        failed = error is not None and not is_no_failure(error)
        # Before there was a trainer: other tasks may be ranks that are about to wait for this one.
        if self._place is None and failed and (place := Rendezvous.of_slurm_task()) is not None:
            self.join(place)
        if self._place is None:
            return
        if self._own is None and not failed:
            self._finish()
            return
        if error is not None:
            self.announce(error)
        self._end()

    def _finish(self) -> None:
        """Say that this rank's end is as it should be; rank 0, over which the others are told, leaves last."""
        assert self._place is not None
        self._finished = True
        end_workers()
        leaves = None
        if self._told_to_go:
            # Usually all ranks were; one that was not would wait for the others.
            leaves = Failure(self._place.rank, _here(), f"was told to go: {self._told_to_go}", REQUEUE)
        if self._link is not None:
            with contextlib.suppress(OSError):
                send(self._link, {"finished": None if leaves is None else asdict(leaves)})
        if self._hub is not None:
            with self._hub.changed:
                self._hub.changed.wait_for(lambda: self._hub is None or self._hub.others_have_finished())

    def _end(self) -> None:
        """End this process because of its own failure."""
        assert self._own is not None
        with self._lock:
            waits, self._ending = self._ending, True
        if waits:  # the main thread and the deadline may both come here
            threading.Event().wait()
        self._say()
        self._leave(self._own.status)

    def _say(self) -> None:
        """Print what this rank failed of, once; what all ranks find wrong, such as a setting, on one of them."""
        first, own = self._first, self._own
        if self._text and own is not None:
            _print(self._told() if first and first.rank != own.rank and first.error == own.error else self._text)
            self._text = ""

    def _told(self) -> str:
        assert self._place is not None
        return f"robustseg: rank {self._place.rank} ends, because {self._first}"

    def _leave(self, status: int) -> None:
        """Exit without teardown, which may wait for other ranks, when it is this rank's turn."""
        assert self._place is not None
        writing = threading.Thread(target=self._write_out, daemon=True)
        writing.start()
        writing.join(TEARDOWN_S)
        end_workers()
        if self._hub is not None and self._connected.is_set():
            # ranks that are still starting would wait for this one for half an hour
            with self._hub.changed:
                self._hub.changed.wait_for(self._all_told, timeout=CONNECT_S)
        first = self._first or self._own
        torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        # torchrun reports the first to go as the cause; Lightning's launcher kills rank 0 once another one has gone.
        before = first.rank if torchrun and first is not None else 0
        if self._place.rank != before:
            self._alone.wait(_TURN_S)
        os._exit(status)

    def _write_out(self) -> None:
        with contextlib.suppress(Exception):  # this is no longer the error that matters
            self.write_out()

    def _all_told(self) -> bool:
        return self._hub is None or len(self._hub.settled) == self._hub.world_size

    def _watch(self) -> None:
        """Connect, and wait for what is never to come."""
        try:
            self._link = self._connect()
        except Exception as error:  # whatever it is, training can go on
            _print(f"robustseg: other ranks' failures will be noticed by their silence only: {one_line(error)}")
            self._alone.set()
            return
        self._connected.set()
        reason = ""
        try:
            with self._link.makefile("rb") as lines:
                for line in lines:
                    self._hear(Failure(**json.loads(line)["failed"]))
        except OSError as error:
            reason = error.strerror or str(error)
        self._alone.set()
        if self._first is None and not self._finished:
            self._hear(Failure(0, f"of {self._place.address if self._place else '?'}", without_a_word(reason)))

    def _connect(self) -> socket.socket:
        """Connection to the hub, whose port the process group's store knows.

        Raises:
            OSError: The hub cannot be reached.
            RuntimeError: There is no store within half an hour, the time that a process group waits for its ranks.
        """
        assert self._place is not None
        place = self._place
        self._store = store = place.store(timedelta(minutes=30))
        if self._hub is not None:
            store.set(place.key, json.dumps(self._hub.address))
        hub = json.loads(store.get(place.key))
        link = socket.create_connection((place.address, hub["port"]), timeout=60)
        link.settimeout(None)
        keep_alive(link)
        send(link, {"token": hub["token"], "rank": place.rank, "where": _here()})
        return link

    def _hear(self, failure: Failure) -> None:
        with self._lock:
            self._first = failure
            mine = self._own is not None
            self._heard.set()
        if not mine:
            _print(self._told())
            threading.Thread(target=self._leave, args=(failure.status,), daemon=True).start()


class AnnounceFailure(pl.Callback):
    """Tells the other ranks of an exception before Lightning's teardown, which may wait for them."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """See :meth:`FailTogether.announce`."""
        ranks = FailTogether.current()
        if ranks is not None:
            ranks.announce(exception)


def watch_ranks(trainer: pl.Trainer) -> None:
    """Join the ranks of a trainer, before it launches or waits for any of them, where there are several."""
    ranks, strategy = FailTogether.current(), trainer.strategy
    if ranks is None or trainer.world_size == 1 or not isinstance(strategy, ParallelStrategy):
        return
    environment = strategy.cluster_environment
    if environment is not None:
        place = Rendezvous(trainer.global_rank, trainer.world_size, environment.main_address, environment.main_port)
        ranks.join(place)
        # of checkpoints that are written in the background
        ranks.write_out = getattr(strategy.checkpoint_io, "wait", ranks.write_out)


def _here() -> str:
    return f"host {socket.gethostname()}, process {os.getpid()}"


def _print(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        print(text, file=sys.stderr, flush=True)


def _close_in_children(ranks: FailTogether) -> None:
    """Let forked data workers not keep the connections of a rank open that is no more."""
    if not hasattr(os, "register_at_fork"):
        return
    reference = weakref.ref(ranks)

    def close() -> None:
        here = reference()
        if here is not None:
            for link in [*(here._hub.sockets() if here._hub is not None else []), here._link]:
                with contextlib.suppress(OSError):
                    if link is not None:
                        os.close(link.detach())

    os.register_at_fork(after_in_child=close)
