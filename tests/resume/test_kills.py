"""SIGKILL at random moments, and within writes of checkpoints: the same bits. For more: tests/resume/kills.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.data.trees import camvid_tree
from tests.helpers.paths import ROOT


@pytest.mark.slow
@pytest.mark.timeout(900)  # processes that import torch, on a busy machine
@pytest.mark.parametrize("data", ["scenes", "zip"])
def test_killed_runs_end_in_the_same_bits(tmp_path, data):
    kills = 6 if data == "scenes" else 3
    command = [sys.executable, "-m", "tests.resume.kills", str(tmp_path / "runs")]
    options = ["--kills", str(kills), "--seed", "1"]
    if data == "zip":  # killed and continued from the archive, and compared with a whole run on the tree
        names = [f"a{number:02}" for number in range(32)]
        camvid_tree(tmp_path / "tree", {"train": names, "val": ["b0", "b1", "b2"], "test": ["c0", "c1"]})
        archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "tree")
        options += ["--camvid", archive, "--tree", str(tmp_path / "tree")]
    log = tmp_path / "log"
    with log.open("w") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, *options], cwd=ROOT, env=environment, stdout=file, stderr=file, check=False)
    printed = log.read_text()
    assert done.returncode == 0, printed[-3000:]
    assert f"{kills} of {kills} in the same bits" in printed
    # a kill after the end would prove nothing
    assert printed.count(": killed, same bits") >= (kills + 1) // 2, printed
