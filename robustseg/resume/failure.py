"""A failure of one rank: it ends that process in time, and the launcher then ends the others.

torchrun's agent, ``srun --kill-on-bad-exit=1`` and Lightning's own launcher end all ranks once a process has ended.
This module does what they do not: it cuts off a teardown that waits for other ranks, writes the first error to the file
that torchrun reads, and ends ranks that Lightning started when rank 0 has ended.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from robustseg.data.loading import end_workers
from robustseg.resume.ending import exit_status, is_consequence, is_no_failure, traceback_of

TEARDOWN_S = 10
"""How long a rank that has failed may clear up: what waits for other ranks there never ends."""
CAUSE_S = 5
"""How long a broken collective waits for the launcher to report the failure that broke it."""
_LAUNCHER = "ROBUSTSEG_LAUNCHER"


class EndInTime(pl.Callback):
    """Ends a rank of several soon after its exception, however long Lightning's teardown would wait for the others."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Start the clock; an error that another rank's end has caused gives that rank's error time to be reported."""
        if trainer.world_size == 1 or is_no_failure(exception):
            return
        # its text, since the exception's frames would keep data workers alive
        ending = (f"{traceback_of(exception)}\nrobustseg: teardown takes too long", exit_status(exception))
        if is_consequence(exception):
            time.sleep(CAUSE_S)
        if isinstance(exception, Exception):
            record_error(exception)
        clock = threading.Timer(TEARDOWN_S, _end, ending)
        clock.daemon = True
        clock.start()


def record_error(error: Exception) -> None:
    """Write an exception that is being handled, the first of this process, to the file that torchrun's report shows."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file and not os.path.exists(file):
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)


def end_with_launcher(trainer: pl.Trainer) -> None:
    """Watch rank 0 in a process that Lightning has started for another rank; to be called in both.

    Rank 0 is the launcher there: when it is killed, nobody is left to end the others.

    Args:
        trainer: Before it launches processes.
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
    time.sleep(CAUSE_S)  # an end that all ranks have together is over by then
    _end("robustseg: rank 0 has ended: this rank ends as well", 1)


def _end(text: str, status: int) -> None:
    print(text, file=sys.stderr, flush=True)
    end_workers()
    os._exit(status)
