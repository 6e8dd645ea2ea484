"""Holds a run back for as long as a test has not done to it what it is going to do."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl


class Brake(pl.Callback):
    """Makes each step but the first two last ten seconds in the start whose number is in the file ``$BRAKE``.

    A run then is in the middle of its steps when the signal comes, however fast or slow the machine is. Without the
    file it goes on at once. Nothing that is computed changes.
    """

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self.steps += 1
        end = time.monotonic() + 10
        while self.steps > 2 and _is_held() and time.monotonic() < end:
            time.sleep(0.05)


def _is_held() -> bool:
    brake = Path(os.environ["BRAKE"])
    return brake.exists() and brake.read_text() == os.environ.get("SLURM_RESTART_COUNT", "0")
