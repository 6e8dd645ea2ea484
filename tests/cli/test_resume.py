"""Evaluations through the real command line: killed, sharded, merged, without room, and asked for what is not there."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustseg.cli.main import main
from robustseg.evaluation.store import read_records, streams
from tests.helpers.paths import CONF, ROOT

TINY = ["--config", str(CONF / "tiny.yaml")]
IMAGES = 9
RECORDS = 1 + 2 * 3
"""Of an image: the clean one, and three attacks, each in 8 bit as well."""
pytestmark = pytest.mark.timeout(600)  # processes that import torch, on a busy machine
SUITE = """
robustness:
  attacks:
    fgsm: {class_path: FGSM}
    pgd4: {class_path: PGD, init_args: {steps: 4}}
    cospgd3: {class_path: CosPGD, init_args: {steps: 3}}
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    """Of an evaluation that has something to interrupt."""
    root = tmp_path_factory.mktemp("runs")
    short = ["--trainer.max_epochs", "1", "--robustness.attacks", "{}", "--robustness.validate_with", "[]"]
    assert main(["train", *TINY, *short, "--trainer.default_root_dir", str(root)]) == 0
    (root / "suite.yaml").write_text(SUITE)
    checkpoint = root / "tiny" / "version_0" / "checkpoints" / "last.ckpt"
    return [
        *TINY,
        *("--config", str(root / "suite.yaml"), "--ckpt_path", str(checkpoint)),
        *("--data.test_length", str(IMAGES), "--data.val_batch_size", "1", "--check_images", "0"),
    ]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert main(["evaluate", *command, "--output", str(folder)]) == 0
    return folder


def start(command: list[str], folder: Path, log: Path, room: int | None = None) -> subprocess.Popen:
    """evaluate.py in a process of its own, which may write ``room`` bytes to a file."""

    def limit() -> None:
        if room is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "evaluate.py"), *command, "--output", str(folder)],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=file,
            preexec_fn=limit,
        )


def finished(process: subprocess.Popen) -> int:
    """Its exit status; it never outlives the test."""
    try:
        return process.wait(500)
    finally:
        process.kill()
        process.wait()


def count(folder: Path) -> int:
    return sum(1 for stream in streams(folder) for _ in read_records(stream))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "records").glob("*.arrows"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_and_continued_it_gives_the_same_card(command, whole, tmp_path, seed):
    folder = tmp_path / "out"
    process = start(command, folder, tmp_path / "log")
    until = random.Random(seed).uniform(0, size(whole))
    try:
        while process.poll() is None and (not folder.exists() or size(folder) <= until):
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()[-2000:]
    assert not (folder / "card.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", "ignore")
        assert 0 < count(folder) < RECORDS * IMAGES
    before = {path: path.read_bytes() for path in (folder / "records").iterdir()}
    assert main(["evaluate", *command, "--output", str(folder)]) == 0
    assert (folder / "card.json").read_bytes() == (whole / "card.json").read_bytes()
    assert count(folder) == RECORDS * IMAGES
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_without_room_it_says_so_and_goes_on_later(command, whole, tmp_path):
    folder = tmp_path / "out"
    process = start(command, folder, tmp_path / "log", room=size(whole) // 2)
    assert finished(process) == 1
    printed = (tmp_path / "log").read_text()
    (line,) = [line for line in printed.splitlines() if line.startswith("robustseg: error:")]
    assert "cannot write (File too large)" in line
    assert "run the same command again" in line
    assert "Traceback" not in printed
    kept = count(folder)
    assert 0 < kept < RECORDS * IMAGES
    assert main(["evaluate", *command, "--output", str(folder)]) == 0
    assert (folder / "card.json").read_bytes() == (whole / "card.json").read_bytes()
    assert count(folder) == RECORDS * IMAGES


@pytest.mark.slow
def test_two_processes_at_once_share_a_folder(command, whole, tmp_path):
    folder = tmp_path / "out"
    processes = [start([*command, "--shard", f"{k}/2"], folder, tmp_path / f"log{k}") for k in (1, 2)]
    assert [finished(process) for process in processes] == [0, 0]
    assert (folder / "card.json").read_bytes() == (whole / "card.json").read_bytes()
    assert count(folder) == RECORDS * IMAGES
    names = {stream.path.name for stream in streams(folder)}
    assert names == {"shard1of2-0.arrows", "shard2of2-0.arrows"}


def test_shards_are_merged_on_the_command_line(command, whole, tmp_path, capsys):
    parts = [str(tmp_path / "a"), str(tmp_path / "b")]
    for number, part in enumerate(parts, 1):
        assert main(["evaluate", *command, "--shard", f"{number}/2", "--output", part]) == 0
    merged = str(tmp_path / "merged")
    assert main(["merge", merged, *parts]) == 0
    assert f"merged into {merged}" in capsys.readouterr().out
    assert main(["evaluate", *command, "--output", merged]) == 0
    assert (tmp_path / "merged" / "card.json").read_bytes() == (whole / "card.json").read_bytes()
    assert main(["merge", merged, *parts]) == 1
    assert "holds records already" in capsys.readouterr().err


def error_of(arguments: list[str], capsys) -> str:
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("robustseg: error:")]
    return line


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--shard", "3/2"], ["--shard 3/2"]),
        (["--shard", "0/2"], ["--shard 0/2"]),
        (["--shard", "one of two"], ["--shard one of two", "1/4"]),
        (["--ids", "missing.txt"], ["--ids missing.txt", "one id per line"]),
        (["--ids", "{tmp}/empty.txt"], ["empty"]),
        (["--ids", "{tmp}/unknown.txt"], ["1 of the 2 ids", "'test-999999'", "'test-000000'"]),
        (["--ids", "{tmp}/binary.txt"], ["--ids", "binary.txt"]),
        (["--check_images", "-1"], ["check_images = -1"]),
        (["--output", "{tmp}/old"], ["older version", "--output"]),
        (["--output", "{tmp}/empty.txt"], ["cannot be written"]),
    ],
)
def test_bad_values_are_one_line_and_write_nothing(command, arguments, parts, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "unknown.txt").write_text("test-000001\ntest-999999\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "robustness.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    output = [] if "--output" in arguments else ["--output", str(tmp_path / "out")]
    chosen = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    line = error_of(["evaluate", *command, *output, *chosen], capsys)
    assert all(part in line for part in parts), line
    assert sorted(tmp_path.rglob("*")) == before


def test_something_else_is_refused_in_the_same_folder(command, whole, capsys):
    before = {path: path.read_bytes() for path in sorted(whole.rglob("*")) if path.is_file()}
    again = ["evaluate", *command, "--output", str(whole)]
    assert "image_size" in error_of([*again, "--data.image_size", "[32, 40]"], capsys)
    assert "data.sha256" in error_of([*again, "--data.seed", "4"], capsys)
    assert "seed: 0 there, 1 here" in error_of([*again, "--seed_everything", "1"], capsys)
    assert "steps: 4 there, 5 here" in error_of([*again, "--robustness.attacks.pgd4.init_args.steps", "5"], capsys)
    assert {path: path.read_bytes() for path in sorted(whole.rglob("*")) if path.is_file()} == before


def test_some_ids_have_a_folder_and_a_card_of_their_own(command, whole, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("test-000004\n\n  test-000001\n")
    folder = tmp_path / "out"
    assert main(["evaluate", *command, "--ids", str(tmp_path / "ids.txt"), "--output", str(folder)]) == 0
    card = json.loads((folder / "card.json").read_text())
    assert card["data"]["ids"] == ["test-000001", "test-000004"]
    assert (card["data"]["images"], card["data"]["split_images"]) == (2, IMAGES)
    assert "data.ids" in error_of(["evaluate", *command, "--output", str(folder)], capsys)
    whole_card = json.loads((whole / "card.json").read_text())
    assert whole_card["data"]["ids"] is None


def test_a_damaged_checkpoint_touches_no_folder(command, tmp_path, capsys):
    path = tmp_path / "bad.ckpt"
    path.write_bytes(b"no checkpoint")
    line = error_of(["evaluate", *command, "--ckpt_path", str(path), "--output", str(tmp_path / "out")], capsys)
    assert "bad.ckpt" in line
    assert not (tmp_path / "out").exists()
