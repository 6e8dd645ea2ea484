"""``robustseg train`` in which one rank fails: ``HOW`` (and where) on rank ``WHO``, both in the environment.

Run as ``python failing_run.py ARGUMENTS``, so that any launcher can start it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from robustseg.callbacks import EpochLines
from robustseg.cli import main as cli
from robustseg.data import DataError
from robustseg.evaluation.benchmark import EvaluationModule
from robustseg.training import RobustSegmentation

HOW, WHO = os.environ["HOW"], int(os.environ["WHO"])


def fail() -> None:
    print(f"FAILING {time.time()}", file=sys.stderr, flush=True)
    if "killed" in HOW:
        os.kill(os.getpid(), signal.SIGKILL)
    if "expected" in HOW:
        raise DataError("leaf.png cannot be decoded: replace or remove it.")
    raise ArithmeticError("a very particular mistake")


def failing(function, rank):
    def wrapped(self, *arguments):
        if rank(self) == WHO and (not hasattr(self, "global_step") or self.global_step >= 1 or "evaluation" in HOW):
            fail()
        return function(self, *arguments)

    return wrapped


class Deaf(pl.Callback):
    """Waits for the other ranks in its teardown, as some callbacks of users do."""

    def on_exception(self, trainer, pl_module, exception):
        trainer.strategy.barrier()


def of_module(module):
    return module.trainer.global_rank


def slow(function):
    def wrapped(self, *arguments):
        if self.trainer.global_rank == WHO:
            time.sleep(2.5)
        return function(self, *arguments)

    return wrapped


def impatient(function):
    def wrapped(self):
        function(self)
        torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=1))

    return wrapped


if HOW == "slow":
    EvaluationModule.test_step = slow(EvaluationModule.test_step)
    DDPStrategy.setup_distributed = impatient(DDPStrategy.setup_distributed)
elif "evaluation" in HOW:
    EvaluationModule.test_step = failing(EvaluationModule.test_step, of_module)
else:
    RobustSegmentation.training_step = failing(RobustSegmentation.training_step, of_module)
if "deaf" in HOW:
    EpochLines.on_exception = Deaf.on_exception

if __name__ == "__main__":
    print(f"PROCESS {os.getpid()}", file=sys.stderr, flush=True)
    sys.exit(cli.main(["train", *sys.argv[1:]]))
