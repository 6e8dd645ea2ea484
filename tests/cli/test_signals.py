"""Commands that measure end at once when they are told to go, and go on with the same command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from robustseg.config.build import RobustSegCLI
from robustseg.evaluation.store import read_records, streams
from tests.helpers.paths import CONF, ROOT

CONF = CONF / "tiny.yaml"


def measured(folder: Path) -> int:
    return sum(1 for stream in streams(folder) for _ in read_records(stream))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("command", ["evaluate", "study"])
def test_a_signal_ends_what_measures_and_nothing_is_lost(tmp_path, command, number):
    cli = RobustSegCLI(["--config", str(CONF)])
    torch.save({"state_dict": cli.model.state_dict()}, tmp_path / "last.ckpt")
    # Hours of steps.
    endless = {"class_path": "PGD", "init_args": {"steps": 10**7}}
    suite = {"robustness": {"attacks": {"pgd": endless}}}
    if command == "study":
        suite = {"study": {"class_path": "TransferMatrix", "init_args": {"attacks": {"pgd": endless}}}}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(suite))
    given = ["--config", str(CONF), "--config", str(tmp_path / "more.yaml"), "--ckpt_path", str(tmp_path / "last.ckpt")]
    given += ["--output", str(tmp_path / "out")]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from robustseg.cli.main import main; sys.exit(main())", command, *given],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=log,
        stderr=log,
    )
    try:
        limit = time.monotonic() + 120
        while not measured(tmp_path / "out"):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < limit
            time.sleep(0.2)
        clean = measured(tmp_path / "out")
        process.send_signal(number)
        assert process.wait(timeout=60) == 85
    finally:
        process.kill()
        process.wait()
    assert measured(tmp_path / "out") == clean
    printed = (tmp_path / "log").read_text()
    assert f"{number.name} received" in printed
    assert "start the same command again to go on; what was measured is kept" in printed
    assert "Traceback" not in printed
