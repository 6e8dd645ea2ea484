"""Waiting for ranks whose work takes longer than a collective may wait."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from torch import distributed

_FOR_EVER = timedelta(days=365)


def wait_for_all_ranks() -> None:
    """Return when every rank is here, however long that takes.

    A collective gives up after 10 to 30 minutes, less than a rank may be ahead of another one that has hours of a
    continued evaluation left. Where a rank has failed and will never come, the
    launcher ends this one.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    # The time-out is a group's: this one, on the CPU, waits from its creation on.
    group: Any = distributed.new_group(backend="gloo", timeout=_FOR_EVER)
    distributed.barrier(group)
    distributed.destroy_process_group(group)
