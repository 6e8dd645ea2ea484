"""An evaluation that is killed at any moment and continued ends as if it had not been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.benchmark.tiny import ATTACKS, IMAGES

ROOT = Path(__file__).parents[2]
KILLS = 24


def test_killed_evaluations_end_with_the_same_card(tmp_path):
    log = tmp_path / "log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "tests.benchmark.kills", str(tmp_path), str(KILLS), "1"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file, timeout=500, check=False)
    printed = log.read_text()
    assert done.returncode == 0, printed[-3000:]
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
