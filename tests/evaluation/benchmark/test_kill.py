"""An evaluation that is killed at any moment and continued ends as if it had not been."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from tests.evaluation.benchmark.tiny import ATTACKS, IMAGES
from tests.helpers.paths import ROOT

KILLS = 24


@pytest.mark.slow
@pytest.mark.timeout(600)  # half a minute of processor time, of which a busy machine gives little
def test_killed_evaluations_end_with_the_same_card(tmp_path):
    log = tmp_path / "log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "tests.evaluation.benchmark.kills", str(tmp_path), str(KILLS), "1"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        process.wait(timeout=500)
    finally:
        # with the evaluation that it has just started, if there is one
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    printed = log.read_text()
    assert process.returncode == 0, printed[-3000:]
    (line,) = [line for line in printed.splitlines() if line.startswith("found ")]
    found = json.loads(line.removeprefix("found "))
    complete = (1 + len(ATTACKS)) * IMAGES
    middle = [kill for kill in found if kill["killed"] and 0 < kill["records"] < complete]
    print(f"{sum(kill['killed'] for kill in found)} of {len(found)} were killed, {len(middle)} between two records")
    assert len(found) == KILLS
    assert sum(kill["killed"] for kill in found) >= 20
    assert len(middle) >= 8
    assert all(kill["same"] for kill in found), found
    assert all(kill["once"] for kill in found), found
