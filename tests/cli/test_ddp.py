"""Training and evaluation through train.py and evaluate.py on two gloo ranks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from robustseg.evaluation.store import read_records, streams
from tests.helpers.logged import csv_file, mlflow, tensorboard
from tests.helpers.paths import CONF, ROOT

TWO_RANKS = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def call(script: str, *arguments: str, log: Path) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(ROOT / script), *arguments]
    with open(log, "w") as file:  # a file, since orphaned ranks would hold a pipe open
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        process.wait(timeout=500)
    finally:
        # the other rank is a child of the first, and may be waiting for it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    printed = log.read_text()
    assert process.returncode == 0, printed[-3000:]
    return printed


def card_of(folder: Path) -> dict:
    (path,) = [*folder.glob("evaluation_*/card.json"), *folder.glob("card.json")]
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.timeout(1200)  # five processes that each import torch, on a busy machine
def test_two_ranks_train_and_report_once_and_evaluate_as_one_does(tmp_path):
    run = tmp_path / "runs" / "tiny" / "version_0"
    printed = call(
        "train.py",
        *("--config", str(CONF / "tiny.yaml"), *TWO_RANKS),
        *("--trainer.default_root_dir", str(tmp_path / "runs")),
        *("--trainer.logger", "[CSVLogger, MLFlowLogger]" if find_spec("mlflow") else "[CSVLogger, TensorBoardLogger]"),
        log=tmp_path / "log",
    )
    assert printed.count("│ pgd2") == 1
    assert [path.name for path in (tmp_path / "runs" / "tiny").iterdir()] == ["version_0"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny"]
    for read in [csv_file, mlflow] if find_spec("mlflow") else [csv_file, tensorboard]:  # the first rank's alone
        assert read(run).steps["train/loss"] == [0, 1]
        assert read(run).steps["test/pgd2/miou"] == [2]
    trained = card_of(run)
    assert trained["data"]["images"] == 3

    # on the weights that two ranks ended with, eleven images: one process, and two ranks of which the first has nothing
    # to do any more when they start
    evaluation = ("--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    evaluation += ("--data.test_length", "11", "--check_images", "1")
    one, two = tmp_path / "one", tmp_path / "two"
    call("evaluate.py", *evaluation, "--trainer.devices", "1", "--output", str(one), log=tmp_path / "log")
    alone = json.loads((one / "card.json").read_text())
    assert alone["data"]["images"] == 11
    shutil.copytree(one, two)
    (two / "card.json").unlink()
    for path in (two / "records").iterdir():
        path.unlink()
    for path in two.glob("checks-*"):
        path.unlink()
    half = ("--trainer.devices", "1", "--shard", "1/2", "--output", str(two))
    call("evaluate.py", *evaluation, *half, log=tmp_path / "log")
    assert not (two / "card.json").exists()
    printed = call("evaluate.py", *evaluation, *TWO_RANKS, "--output", str(two), log=tmp_path / "log")
    assert printed.count("│ pgd2") == 1
    assert (two / "card.json").read_bytes() == (one / "card.json").read_bytes()
    counted = Counter((record.sample, record.attack) for stream in streams(two) for record in read_records(stream))
    assert len(counted) == (1 + 2 * 2) * 11  # clean images, and two attacks with their images in 8 bit
    assert set(counted.values()) == {1}
    assert any("rank1" in stream.path.name for stream in streams(two))
