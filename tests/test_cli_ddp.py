"""Training and evaluation through train.py and evaluate.py on two gloo ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TWO_RANKS = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def call(script: str, *arguments: str, log: Path) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    with open(log, "w") as file:  # a file, since orphaned ranks would hold a pipe open
        command = [sys.executable, str(ROOT / script), *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file, timeout=200, check=False)
    printed = log.read_text()
    assert done.returncode == 0, printed[-3000:]
    return printed


def test_two_ranks_train_and_report_once_and_evaluate_as_one_does(tmp_path):
    run = tmp_path / "runs" / "tiny" / "version_0"
    printed = call(
        "train.py",
        *("--config", str(ROOT / "tests" / "conf" / "tiny.yaml"), *TWO_RANKS),
        *("--trainer.default_root_dir", str(tmp_path / "runs")),
        log=tmp_path / "log",
    )
    assert printed.count("│ pgd2") == 1
    assert [path.name for path in (tmp_path / "runs" / "tiny").iterdir()] == ["version_0"]
    trained = json.loads((run / "robustness.json").read_text())
    assert trained["images"] == 3

    # one process, on the weights that two ranks ended with
    call(
        "evaluate.py",
        *("--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")),
        *("--trainer.devices", "1", "--output", str(tmp_path / "one")),
        log=tmp_path / "log",
    )
    alone = json.loads((tmp_path / "one" / "robustness.json").read_text())
    for name, figures in trained["results"].items():
        for figure in ("miou", "pixel_acc", "image_miou"):
            assert alone["results"][name][figure] == pytest.approx(figures[figure], abs=2e-3)
