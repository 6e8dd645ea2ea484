"""``robustseg train`` in which one rank fails: ``HOW`` on rank ``WHO``, both in the environment.

``HOW`` is a list of words: where (``train``, ``attack``, ``evaluation``), by what (``error``, ``expected`` for an error
of the package, ``kill``), and what makes it harder: ``deaf`` (the failing rank's teardown waits for the others),
``busy`` (the others are in no collective and notice nothing). ``slow`` alone: the rank takes longer in the evaluation
than a collective may wait.

Run as ``python failing_run.py ARGUMENTS``, so that any launcher can start it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta

import torch
from pytorch_lightning.strategies import DDPStrategy

from robustseg.attacks import Attack
from robustseg.callbacks import EpochLines
from robustseg.cli import main as cli
from robustseg.data import DataError
from robustseg.evaluation.benchmark import EvaluationModule
from robustseg.training import RobustSegmentation

HOW, WHO = set(os.environ["HOW"].split()), int(os.environ["WHO"])
PLACES = {
    "train": (RobustSegmentation, "training_step"),
    "attack": (Attack, "__call__"),
    "evaluation": (EvaluationModule, "test_step"),
}
SPARED = 0 if "evaluation" in HOW else 1
"""Calls that go well."""


def is_chosen() -> bool:
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_PROCID") or 0) == WHO


def fail() -> None:
    print(f"FAILING {time.time()}", file=sys.stderr, flush=True)
    if "kill" in HOW:
        os.kill(os.getpid(), signal.SIGKILL)
    if "expected" in HOW:
        raise DataError("leaf.png cannot be decoded: replace or remove it.")
    raise ArithmeticError("a very particular mistake")


def failing(function):
    calls = []

    def wrapped(*arguments, **named):
        calls.append(None)
        if len(calls) > SPARED and is_chosen():
            fail()
        if len(calls) > SPARED and "busy" in HOW:
            time.sleep(300)
        return function(*arguments, **named)

    return wrapped


def slow(function):
    def wrapped(*arguments, **named):
        if is_chosen():
            time.sleep(2.5)
        return function(*arguments, **named)

    return wrapped


def impatient(function):
    def wrapped(self):
        function(self)
        torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=1))

    return wrapped


def wait_for_others(self, trainer, pl_module, exception):
    trainer.strategy.barrier()  # as some callbacks of users do


if "slow" in HOW:
    EvaluationModule.test_step = slow(EvaluationModule.test_step)
    DDPStrategy.setup_distributed = impatient(DDPStrategy.setup_distributed)
for place in HOW & PLACES.keys():
    owner, name = PLACES[place]
    setattr(owner, name, failing(getattr(owner, name)))
if "deaf" in HOW:
    EpochLines.on_exception = wait_for_others

if __name__ == "__main__":
    print(f"PROCESS {os.getpid()}", file=sys.stderr, flush=True)
    sys.exit(cli.main(["train", *sys.argv[1:]]))
