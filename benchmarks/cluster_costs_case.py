"""The settings of a run that cluster_costs.py measures, in plain values that pass between processes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """The settings of a run to measure."""

    steps: int
    """Number of reported steps; the run has one more."""
    size: tuple[int, int]
    batch: int
    network: str = "small"
    attack_steps: int = 3
    ranks: int = 1
    writer: str = "robustseg"
    """Writer of checkpoints: none, or robustseg or lightning, each also with " async"."""
    every: int | None = None
    """Steps between checkpoints; None for no checkpoints (robustseg's writer still writes the last)."""
    ema: bool = False
    device: str = "cpu"
    precision: str = "32-true"
    threads: int = 1
    place: int = 0
    """Number of the GPU for a run on a single one."""
    folder: str = ""
    port: int = 0
