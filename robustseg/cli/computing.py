"""Environment of commands that compute: settings of torch, errors of ranks, and signals of a scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from robustseg.cli.hush import hush
from robustseg.config.saying import is_first_process, say
from robustseg.data.loading import end_workers
from robustseg.resume.failure import record_error
from robustseg.resume.preemption import REQUEUE, Preempted, PreemptionSignals, requeue


@contextmanager
def computing() -> Iterator[None]:
    """Set torch up; after an error, record it for the launcher and end all data workers."""
    hush()
    # Denormal numbers make CPU convolutions of barely trained models several times slower.
    torch.set_flush_denormal(True)
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        end_workers()
        if isinstance(error, Exception):
            record_error(error)
        raise


def preemptible(work: Callable[[PreemptionSignals], int], again: str = " with --ckpt_path last") -> int:
    """Run work that SIGTERM and SIGUSR1 end resumably; return the exit status. ``again`` as for :func:`requeue`."""
    signals = PreemptionSignals()
    signals.install()
    try:
        return work(signals)
    except Preempted as reason:
        if not is_first_process():
            return 0  # rank 0 does the rest; a launcher would treat another status as a failure
        end_workers()
        say(str(reason))
        requeue(signals.received, say, again)
        return REQUEUE
    finally:
        signals.restore()


def measuring(work: Callable[[], int]) -> int:
    """Run work that saves its results continuously: a signal ends it at once, also within Lightning's test."""

    def start(signals: PreemptionSignals) -> int:
        signals.leave_at_once()
        return work()

    return preemptible(start, " to go on; what was measured is kept")
