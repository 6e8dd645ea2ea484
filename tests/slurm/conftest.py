"""The SLURM that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(f"no SLURM: {reason}")
    with Cluster() as running:
        yield running
