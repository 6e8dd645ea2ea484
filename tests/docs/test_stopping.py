"""Ctrl-C and SIGTERM end the tests at once, also while a command under test handles signals itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.paths import CONF, ROOT

COMMAND = f"""
from pathlib import Path
from robustseg.cli.main import main

def test_long(tmp_path):
    options = ["--trainer.max_epochs", "100000", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["train", "--config", {str(CONF / "tiny.yaml")!r}, *options]) in (0, 1, 85, 130)

def test_next():
    Path("next").touch()
"""


def all_gone(group: int, seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["one process", "a worker"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_pytest_inside_a_command(number, workers, tmp_path):
    (tmp_path / "test_long.py").write_text(COMMAND)
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--basetemp", "runs", *workers, "."]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            # a shell's background has SIGINT ignored, which children inherit
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            start_new_session=True,
        )
    try:
        limit = time.monotonic() + 120
        while not list(tmp_path.glob("runs/**/events*")):  # it trains
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < limit
            time.sleep(0.2)
        time.sleep(1)
        os.killpg(process.pid, number)
        assert process.wait(timeout=20) != 0
    finally:
        process.kill()
        process.wait()
    assert all_gone(process.pid, 20)
    assert not (tmp_path / "next").exists()
