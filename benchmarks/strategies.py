"""Time and memory of a training step with an attacker on two ranks: DDP, and FSDP2.

    python -m benchmarks.strategies [--steps 4] [--side 64] [--rounds 1]

Each line is a run of its own: two gloo processes, FCN-R50 (33 M weights) with AdamW and PGD3 on half of 2 images each.
Processor time and collectives are rank 0's for one step, the median of the rounds' medians; DDP's own collectives are
called from C++ and not counted. Memory is the largest resident set of rank 0 from the first step on, the median of the
rounds. FSDP2's holds the plain model as well, 126 MiB, which is in main memory where training is on a GPU.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch import distributed
from torch.utils.data import DataLoader

from robustseg.attacks import PGD
from robustseg.models import FCN
from robustseg.training import RobustSegmentation, module
from robustseg.training.sharding import ShardedStrategy
from robustseg.types import Batch

STRATEGIES = {
    "ddp": lambda: DDPStrategy(),
    "ddp, bucket view": lambda: DDPStrategy(gradient_as_bucket_view=True),
    "fsdp2": lambda: ShardedStrategy(),
    "fsdp2, gathering in each forward": lambda: ShardedStrategy(),
}


class Meter(pl.Callback):
    """A callback that measures steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.calls: list[int] = []
        self._counted = 0
        for name in ("all_reduce", "all_gather_single", "all_gather_into_tensor", "reduce_scatter_single"):
            if hasattr(distributed, name):
                setattr(distributed, name, self._counting(getattr(distributed, name)))

    def _counting(self, call: Callable[..., Any]) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            self._counted += 1
            return call(*arguments, **options)

        return counted

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the largest resident set is counted anew

    def on_train_batch_start(self, *arguments: Any) -> None:
        self._start, self._counted = time.process_time(), 0

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.seconds.append(time.process_time() - self._start)
        self.calls.append(self._counted)


def resident() -> float:
    """Return the largest resident set of this process, MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def worker(name: str, steps: int, side: int) -> None:
    """Train on this rank, and print what rank 0 measured."""
    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    if name.endswith("each forward"):
        module.gather = lambda model: None  # type: ignore[assignment]
    strategy: Strategy = STRATEGIES[name]()
    optimizer = partial(torch.optim.AdamW, lr=1e-4)
    net = RobustSegmentation(FCN(19, backbone="resnet50"), attack=PGD(steps=3), optimizer=optimizer)
    meter = Meter()
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, use_distributed_sampler=False,
        callbacks=[meter],
    )  # fmt: skip
    batch = Batch(torch.rand(2, 3, side, side), torch.randint(19, (2, side, side)), ["a", "b"])
    trainer.fit(net, DataLoader([0] * steps, collate_fn=lambda _: batch))
    if trainer.is_global_zero:
        kept = meter.seconds[2:]  # DDP rebuilds its buckets after the first
        print("MEASURED", statistics.median(kept), statistics.median(meter.calls[2:]), resident())


def main() -> None:
    """Run each strategy in turn, several times, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--worker", choices=STRATEGIES)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.steps, options.side)
        return
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    found: dict[str, list[list[float]]] = {name: [] for name in STRATEGIES}
    for _ in range(options.rounds):
        for name, rows in found.items():
            command = [sys.executable, "-m", "benchmarks.strategies", "--worker", name]
            command += ["--steps", str(options.steps), "--side", str(options.side)]
            root = Path(__file__).parent.parent
            done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
            rows.append([float(part) for part in done.stdout.split("MEASURED")[1].split()[:3]])
    for name, rows in found.items():
        seconds, calls, memory = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:34} {seconds:6.2f} s  {calls:4.0f} collectives  {memory:6.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
