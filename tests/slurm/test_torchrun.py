"""The shipped start file for torchrun, run as it is: two processes on the CPU, started twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import CONF, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_it_trains_and_the_same_command_goes_on(tmp_path, strategy):
    here = {"STRATEGY": strategy, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    here["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", "configs/slurm/torchrun.sh", "2", "--config", str(CONF / "tiny.yaml")]
    command += ["--trainer.default_root_dir", str(tmp_path)]
    printed = []
    for _ in range(2):
        with open(tmp_path / "log", "w") as log:  # a file, since orphaned ranks would hold a pipe open
            done = subprocess.run(command, cwd=ROOT, env=os.environ | here, stdout=log, stderr=log, timeout=400)
        printed.append((tmp_path / "log").read_text())
        assert done.returncode == 0, printed[-1][-3000:]
    assert "resuming from" not in printed[0]
    assert "resuming from" in printed[1]
    assert printed[0].count("│ pgd2") == 1
    config = (tmp_path / "tiny" / "version_0" / "config.yaml").read_text()
    assert f"strategy: {strategy}" in config
