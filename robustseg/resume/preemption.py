"""Signals of a scheduler that end a run, and the request to start the job again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

REQUEUE = 85
"""Exit status of a run that a signal ended and that should be started again."""

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Preempted(BaseException):
    """Exception that ends a run after SIGTERM or SIGUSR1, with its state saved; the message describes that state.

    It is not an ``Exception``, since it may be raised anywhere: handlers that report a broken model or file must not
    catch it.
    """


class PreemptionSignals:
    """Handler of SIGTERM and SIGUSR1 that only records the signal.

    A checkpoint written inside a handler could meet an unfinished step, and ranks at different steps; the training
    loop therefore checks :attr:`received` between steps. If the processes need no agreement (an evaluation, with its
    records safe on disk), :meth:`leave_at_once` lets the handler raise :class:`Preempted`.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._at_once = False
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Install the handlers, also again after another library replaced them; only the main thread can do it."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if handler != self._handle:
                self._before.setdefault(number, handler)
                signal.signal(number, self._handle)

    def restore(self) -> None:
        """Restore the handlers from before the first :meth:`install`."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def leave_at_once(self) -> None:
        """Let a signal raise :class:`Preempted` immediately, also one received earlier.

        Raises:
            Preempted: A signal was received earlier.
        """
        self._at_once = True
        if self.received is not None:
            raise Preempted(f"{self.received.name} received")

    def leave_between_steps(self) -> None:
        """Only record signals from now on."""
        self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if self._at_once:
            self._at_once = False  # a second signal must not interrupt the clean-up after the first
            raise Preempted(f"{self.received.name} received")


def slurm_job() -> str | None:
    """Return the id of this process's SLURM job, of an array job with its task; None outside of SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def requeue(received: signal.Signals | None, say: Callable[[str], None], again: str = " with --ckpt_path last") -> None:
    """Ask SLURM to requeue this job; outside of SLURM only the exit status :data:`REQUEUE` asks for it.

    This is done only after SIGUSR1, the warning before a time limit. SIGTERM comes from a preemption, after which
    SLURM usually requeues the job itself, or from scancel: a job that requeued itself then could not be cancelled.

    Args:
        received: The signal that ended the run.
        say: Called with a line about the result.
        again: Arguments that the same command needs to continue.
    """
    job = slurm_job()
    if job is None:
        say(f"exit status {REQUEUE}: start the same command again{again}.")
        return
    if received == signal.SIGTERM:
        say(
            f"job {job} is not requeued from here after SIGTERM, as a cancelled one would come back: exit "
            f"status {REQUEUE} asks the batch script to, as those of configs/slurm do."
        )
        return
    if shutil.which("scontrol") is None:
        say(f"there is no scontrol here to requeue job {job} with: exit status {REQUEUE} asks the batch script to.")
        return
    answer = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
    if answer.returncode:
        say(f"job {job} cannot be requeued ({answer.stderr.strip()}): submit it again, with --requeue.")
    else:
        say(f"job {job} is requeued.")
