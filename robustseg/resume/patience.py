"""Barrier for ranks whose work takes longer than a collective's time-out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from torch import distributed

_FOR_EVER = timedelta(days=365)


def wait_for_all_ranks() -> None:
    """Wait for every rank without a time limit.

    A collective gives up after 10 to 30 minutes, but one rank may be ahead of another by hours of a continued
    evaluation. If a rank has failed and never arrives, the launcher ends this one.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    # The time-out belongs to the group: this one, on the CPU, is created with a long one.
    group: Any = distributed.new_group(backend="gloo", timeout=_FOR_EVER)
    distributed.barrier(group)
    distributed.destroy_process_group(group)
