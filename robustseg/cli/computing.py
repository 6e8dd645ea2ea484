"""Surroundings of commands that compute: settings of torch, errors of ranks, and signals of a scheduler."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from robustseg.config.build import is_first_process, say
from robustseg.data.loading import end_workers
from robustseg.resume.failure import record_error
from robustseg.resume.preemption import REQUEUE, Preempted, PreemptionSignals, requeue


@contextmanager
def computing() -> Iterator[None]:
    """Set torch up, record for the launcher what ends this rank, and leave no data worker behind."""
    # Denormal numbers slow CPU convolutions of barely trained models down several times.
    torch.set_flush_denormal(True)
    # Lightning's own affair, printed at every start with the torch releases of 2026
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
    # untrue here: the order of the data is continued by the sampler, and scores are those of all ranks already
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    warnings.filterwarnings("ignore", message=".*It is recommended to use `self.log.*sync_dist=True.*")
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        end_workers()
        if isinstance(error, Exception):
            record_error(error)
        raise


def preemptible(work: Callable[[PreemptionSignals], int], again: str = " with --ckpt_path last") -> int:
    """Do work that SIGTERM and SIGUSR1 end, to be continued; its exit status, and ``again`` as of :func:`requeue`."""
    signals = PreemptionSignals()
    signals.install()
    try:
        return work(signals)
    except Preempted as reason:
        if not is_first_process():
            return 0  # what is left to do is rank 0's; a launcher takes another status for a failure
        end_workers()
        say(str(reason))
        requeue(signals.received, say, again)
        return REQUEUE
    finally:
        signals.restore()


def measuring(work: Callable[[], int]) -> int:
    """Do work whose results are kept as it goes: a signal ends it anywhere, where Lightning's test would ignore it."""

    def start(signals: PreemptionSignals) -> int:
        signals.leave_at_once()
        return work()

    return preemptible(start, " to go on; what was measured is kept")
