from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# Numerical code on a busy machine has no steady pace: no deadline per example. Derandomised, so that a failure repeats.
settings.register_profile("attacks", deadline=None, derandomize=True, database=None)
settings.load_profile("attacks")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """On images of 7×6 pixels threads only cost time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
