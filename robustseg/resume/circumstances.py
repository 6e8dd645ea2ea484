"""Circumstances of a run besides its settings, with which rounding may differ: versions, threads and the device."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version

import pytorch_lightning as pl
import torch

import robustseg
from robustseg.numerics.precision import matmul_precision
from robustseg.training.sharding import ShardedStrategy

CIRCUMSTANCES_KEY = "circumstances"
"""Entry in the record of a checkpoint's run."""
_NAMES = {
    "robustseg": "robustseg",
    "torch": "torch",
    "pytorch-lightning": "pytorch-lightning",
    "numpy": "numpy",
    "threads": "threads of torch",
    "device": "device",
    "processor": "processor",
    "matmul": "precision of float32 products",
    "execution": "execution of the network",
    "strategy": "strategy",
}


def circumstances(trainer: pl.Trainer) -> dict[str, str]:
    """Return what rounding may depend on, by name.

    Args:
        trainer: Of the run, for its device.
    """
    device = trainer.strategy.root_device
    packages = {name: version(name) for name in ("pytorch-lightning", "numpy")}
    return {
        "robustseg": robustseg.__version__,
        "torch": str(torch.__version__),
        **packages,
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "matmul": matmul_precision(),
        "execution": str(getattr(getattr(trainer.lightning_module, "model", None), "execution", None) or "as written"),
        "strategy": "fsdp2" if isinstance(trainer.strategy, ShardedStrategy) else "ddp",
    }


def other_circumstances(before: Mapping[str, object], now: Mapping[str, str]) -> str | None:
    """Return a sentence about circumstances that have changed since a checkpoint; None if none has.

    Args:
        before: Those of the run that wrote the checkpoint; names that an older version did not record are missing.
        now: Those of this run.
    """
    changed = [
        f"{_NAMES[name]} {before[name]} there and {value} here"
        for name, value in now.items()
        if name in before and str(before[name]) != value
    ]
    return f"maybe no longer equal to the bit, as rounding may differ: {', '.join(changed)}" if changed else None
