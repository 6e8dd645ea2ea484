"""SIGKILL at random moments, and within writes of checkpoints: the same bits. For more: tests/resume/kills.py."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT


@pytest.mark.slow
@pytest.mark.timeout(900)  # processes that import torch, on a busy machine
def test_killed_runs_end_in_the_same_bits(tmp_path):
    kills = 6
    command = [sys.executable, "-m", "tests.resume.kills", str(tmp_path / "runs")]
    options = ["--kills", str(kills), "--seed", "1"]
    log = tmp_path / "log"
    with log.open("w") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, *options], cwd=ROOT, env=environment, stdout=file, stderr=file, check=False)
    printed = log.read_text()
    assert done.returncode == 0, printed[-3000:]
    assert f"{kills} of {kills} in the same bits" in printed
    # a kill after the end would prove nothing
    assert printed.count(": killed, same bits") >= (kills + 1) // 2, printed
