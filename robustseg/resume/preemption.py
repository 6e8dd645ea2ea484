"""Being told to go: signals of a scheduler, and how a job asks to be started again."""

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
"""Exit status of a run that was told to go and wants to be started again."""

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Preempted(BaseException):
    """The run was told to go, by SIGTERM or SIGUSR1, and has kept what it can; the message says what.

    Not an Exception, since it may be raised anywhere: what catches those to say that a model or a file is broken must
    not take it for that.
    """


class PreemptionSignals:
    """Notes SIGTERM and SIGUSR1, and does nothing else in the handler.

    A checkpoint that is written inside a handler can meet a step half done, and the ranks at different steps; here
    whoever trains looks at :attr:`received` between steps. Where nothing needs to be agreed upon between processes
    (an evaluation, whose records are safe on disk), :meth:`leave_at_once` lets the handler raise :class:`Preempted`.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._at_once = False
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take the signals over, again where something else has taken them since; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if handler != self._handle:
                self._before.setdefault(number, handler)
                signal.signal(number, self._handle)

    def restore(self) -> None:
        """Give the signals back to whom they belonged before the first :meth:`install`."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def leave_at_once(self, at_once: bool = True) -> None:
        """Choose whether a signal raises :class:`Preempted` where it arrives, also one that came before."""
        self._at_once = at_once
        if at_once and self.received is not None:
            raise Preempted(f"{self.received.name} received")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if self._at_once:
            self._at_once = False  # a second signal must not interrupt the clearing up after the first
            raise Preempted(f"{self.received.name} received")


def slurm_job() -> str | None:
    """Id of the SLURM job this process is a task of, an array's with its task; None outside of one."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def requeue(received: signal.Signals | None, say: Callable[[str], None], again: str = " with --ckpt_path last") -> None:
    """Ask SLURM to run this job again; elsewhere the exit status :data:`REQUEUE` has to do.

    Only after SIGUSR1, the warning before a time limit. SIGTERM comes from SLURM when it takes a job away, which it
    mostly starts again by itself, and by scancel: a job that requeued itself then could not be cancelled.

    Args:
        received: The signal that ended the run.
        say: Called with a line on what was done.
        again: What the same command needs in order to go on.
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
