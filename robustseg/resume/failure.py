"""Failure of one rank: its process ends in time, and the launcher then ends the others.

torchrun's agent, ``srun --kill-on-bad-exit=1`` and Lightning's own launcher end all ranks once a process has ended.
This module adds the rest: it cuts off a teardown that waits for other ranks, writes the first error to the file that
torchrun reads, and ends the ranks that Lightning started once rank 0 has ended.
"""

from __future__ import annotations

import os
import threading
import time

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from robustseg.data.loading import end_workers
from robustseg.resume.ending import exit_status, is_consequence, is_no_failure, traceback_of
from robustseg.terminal.text import complain

TEARDOWN_S = 10
"""Seconds for the teardown of a failed rank; a wait for other ranks would never end."""
CAUSE_S = 5
"""Seconds that a rank with a broken collective waits, so that the launcher reports the original failure."""
_LAUNCHER = "ROBUSTSEG_LAUNCHER"


class EndInTime(pl.Callback):
    """Callback that ends a rank of several soon after its exception, although Lightning's teardown may still wait."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Start the timer; after an error caused by another rank's end, wait until that rank's error is reported."""
        if trainer.world_size == 1 or is_no_failure(exception):
            return
        # the text only, since the exception's frames would keep data workers alive
        ending = (f"{traceback_of(exception)}\nrobustseg: teardown takes too long", exit_status(exception))
        if is_consequence(exception):
            time.sleep(CAUSE_S)
        if isinstance(exception, Exception):
            record_error(exception)
        clock = threading.Timer(TEARDOWN_S, _end, ending)
        clock.daemon = True
        clock.start()


def record_error(error: Exception) -> None:
    """Write the exception that is being handled, the first of this process, to the file of torchrun's report."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file and not os.path.exists(file):
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)


def end_with_launcher(trainer: pl.Trainer) -> None:
    """Watch rank 0 from a process that Lightning started for another rank; call it on all ranks.

    With Lightning's launcher rank 0 is the launcher: if it is killed, no process is left to end the others.

    Args:
        trainer: The trainer, before it launches processes.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if not isinstance(environment, LightningEnvironment):
        return
    if not environment.creates_processes_externally:
        os.environ[_LAUNCHER] = str(os.getpid())
    elif trainer.local_rank > 0 and _LAUNCHER in os.environ:
        threading.Thread(target=_end_with, args=(int(os.environ[_LAUNCHER]),), daemon=True).start()


def _end_with(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1)
    time.sleep(CAUSE_S)  # a common end of all ranks is over by then
    _end("robustseg: rank 0 has ended: this rank ends as well", 1)


def _end(text: str, status: int) -> None:
    complain(text)
    end_workers()
    os._exit(status)
