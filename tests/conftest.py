"""Settings of the whole suite."""

from __future__ import annotations

import os
import signal

WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:
    # One thread per worker, in the processes that tests start as well; before torch reads it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

from tests.helpers.stopping import end_on_signals, wait_if_it_ends  # noqa: E402

# Small nets gain nothing from more threads, and the suite shall behave on a laptop as on a large machine.
torch.set_num_threads(1 if WORKER else min(2, torch.get_num_threads()))
# Barely trained nets in eval mode run in denormal numbers, which are several times slower.
torch.set_flush_denormal(True)
end_on_signals()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker is left alone with one at the end."""
    longest = ("tests/slurm", "tests/resume", "tests/cli")
    items.sort(key=lambda item: not item.nodeid.startswith(longest))


def pytest_runtest_setup() -> None:
    wait_if_it_ends()


def pytest_sessionfinish() -> None:
    """Leave signals alone once no test is running: a worker that ends is sent one."""
    signal.set_wakeup_fd(-1)
