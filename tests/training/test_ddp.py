from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.paths import ROOT


def run(folder: Path, ranks: int) -> dict:
    path = folder / f"{ranks}.pt"
    command = [sys.executable, "-m", "tests.training.ddp_worker", str(path), str(ranks)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "MASTER_ADDR": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    with open(folder / "log", "w") as log:  # a file, since orphaned ranks would hold a pipe open
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=180, check=False)
    assert done.returncode == 0, (folder / "log").read_text()[-3000:]
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    return run(folder, 1), run(folder, 2)


@pytest.mark.slow
def test_gradients_of_two_ranks_are_those_of_the_concatenated_batch(runs):
    """The attack is in the loop, and the ranks have different numbers of valid pixels."""
    single, double = (result["gradients"] for result in runs)
    assert any(gradient.abs().max() > 1e-3 for gradient in single)
    for one, two in zip(single, double, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_uneven_validation_ends_and_scores_every_image_once(runs):
    single, double = (result["metrics"] for result in runs)
    assert {"val/miou", "val/pgd2/miou", "val/clean/miou", "val/pgd2/pixel_acc"} <= set(single)
    for name, value in single.items():
        torch.testing.assert_close(value, double[name], rtol=1e-5, atol=1e-6, msg=name)
