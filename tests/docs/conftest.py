"""Fixtures of the tests of documentation and benchmarks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.docs.gpu_script import BENCHMARKS


@pytest.fixture
def gpu(monkeypatch):
    """benchmarks/gpu.py and its parts, imported when a test wants them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import gpu as script
    import gpu_attacks
    import gpu_device
    import gpu_networks
    import gpu_speed
    import gpu_table
    import gpu_training

    return SimpleNamespace(
        main=script.main,
        script=script,
        attacks=gpu_attacks,
        device=gpu_device,
        networks=gpu_networks,
        speed=gpu_speed,
        table=gpu_table,
        training=gpu_training,
    )
