"""A run that cluster_costs.py measures: plain settings, which processes hand to one another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """A run to measure."""

    steps: int
    """That are reported; one more is made."""
    size: tuple[int, int]
    batch: int
    network: str = "small"
    attack_steps: int = 3
    ranks: int = 1
    writer: str = "robustseg"
    """Of checkpoints: none, or robustseg or lightning, each also with " async"."""
    every: int | None = None
    """Steps between checkpoints; None: none but, of robustseg's, the last."""
    ema: bool = False
    device: str = "cpu"
    precision: str = "32-true"
    threads: int = 1
    place: int = 0
    """Which GPU a run on one of them takes."""
    folder: str = ""
    port: int = 0
