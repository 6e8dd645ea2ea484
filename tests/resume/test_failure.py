"""A failure of one rank: under each launcher it ends all of them, with its traceback; on one process it says why."""

from __future__ import annotations

import json
import re
import signal
import sys
from functools import partial
from types import SimpleNamespace

import pytest

from robustseg.cli.main import main
from robustseg.resume import failure
from robustseg.resume.ending import exit_status, explanation, is_consequence, is_interrupt
from robustseg.resume.preemption import Preempted
from robustseg.training import RobustSegmentation
from tests.helpers.paths import CONF
from tests.resume.launchers import lightning, torchrun
from tests.resume.launchers import srun as srun_in
from tests.slurm.cluster import Cluster, missing

ENDS_S = 60  # what is promised; 10 to 40 s for those that have to be killed on a machine with nothing else to do
of_launchers = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    # Time limits within these processes are those of use; on a machine that others load, one may be missed.
    pytest.mark.flaky(reruns=1),
]


@pytest.fixture(scope="module")
def srun():
    if reason := missing():
        pytest.skip(f"no SLURM: {reason}")
    with Cluster() as cluster:
        yield partial(srun_in, cluster)


@pytest.fixture(params=["lightning", "torchrun", "srun"])
def launcher(request):
    return {"lightning": lightning, "torchrun": torchrun}.get(request.param) or request.getfixturevalue("srun")


@pytest.mark.parametrize(
    ("how", "who"),
    [
        ("attack error", 0),
        ("train error deaf", 1),
        ("evaluation kill busy", 0),
        pytest.param("evaluation error busy", 1, marks=pytest.mark.exhaustive),
        pytest.param("train kill", 1, marks=pytest.mark.exhaustive),
    ],
)
class TestOneRankFails:
    pytestmark = of_launchers

    def test_all_end_in_time_with_its_traceback(self, tmp_path, launcher, how, who):
        """Though the failing rank's teardown waits for the others (deaf), or these notice nothing (busy)."""
        end = launcher(tmp_path, how, who)
        assert end.status != 0
        assert end.seconds < ENDS_S
        if "error" in how:
            assert "in fail\n" in end.printed
            assert "ArithmeticError: a very particular mistake" in end.printed
            if launcher is torchrun:
                assert re.search(rf"Root Cause[^\[]*\[0\]:[^\[]*rank *: {who} ", end.printed)


class TestOtherEnds:
    pytestmark = of_launchers

    def test_an_expected_error_is_its_message_alone(self, tmp_path):
        end = lightning(tmp_path, "train expected", 1)
        assert end.printed.count("robustseg: error: leaf.png cannot be decoded: replace or remove it.") == 1
        assert "DataError" not in end.printed
        assert end.seconds < ENDS_S

    def test_data_workers_of_a_killed_rank_hold_nobody_up(self, tmp_path):
        end = lightning(tmp_path, "train kill", 1, "--data.num_workers", "1")
        assert end.status in (1, -signal.SIGKILL)
        assert end.seconds < ENDS_S

    def test_a_rank_that_measures_longer_than_a_collective_waits_is_waited_for(self, tmp_path):
        """Twice as long and more; all ranks end as they should."""
        end = lightning(tmp_path, "slow", 1)
        assert end.status == 0, end.printed[-3000:]
        assert list(tmp_path.glob("tiny/version_0/evaluation_*/card.json"))
        assert "this rank ends" not in end.printed


def test_the_first_error_is_where_torchrun_looks_for_it(tmp_path, monkeypatch):
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    for text in ("first", "second"):
        try:
            raise ArithmeticError(text)
        except ArithmeticError as error:
            failure.record_error(error)
    message = json.loads(file.read_text())["message"]
    assert message["message"] == "ArithmeticError: first"
    assert "raise ArithmeticError(text)" in message["extraInfo"]["py_callstack"]


def test_only_a_failure_of_several_ranks_starts_the_clock(monkeypatch):
    clocks = []

    class Clock:
        def __init__(self, *arguments):
            clocks.append(arguments)

        def start(self):
            clocks.append("started")

    monkeypatch.setattr(failure.threading, "Timer", Clock)
    waits = []
    monkeypatch.setattr(failure.time, "sleep", waits.append)
    for ranks, error in ((1, ValueError()), (2, Preempted("SIGTERM")), (2, SystemExit(0))):
        failure.EndInTime().on_exception(SimpleNamespace(world_size=ranks), None, error)
    assert clocks == waits == []
    failure.EndInTime().on_exception(SimpleNamespace(world_size=2), None, KeyError("lost"))
    (seconds, _, (text, status)), started = clocks
    assert (seconds, status, started, waits) == (failure.TEARDOWN_S, 1, "started", [])
    assert "KeyError: 'lost'" in text
    failure.EndInTime().on_exception(SimpleNamespace(world_size=2), None, RuntimeError("Connection closed by peer"))
    assert waits == [failure.CAUSE_S]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (
            KeyboardInterrupt(),
            130,
            "robustseg: interrupted: the run's checkpoints are kept; run the same command again with --ckpt_path last "
            "to go on.",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            1,
            "robustseg: error: DataLoader worker (pid 7) is killed by signal: Killed: mostly by the kernel",
        ),
        (OSError(28, "No space left on device"), 1, "robustseg: error: a file of the run cannot be written (No space"),
    ],
    ids=["interrupt", "worker", "disk"],
)
def test_on_one_process_the_message_says_how_to_go_on(tmp_path, monkeypatch, capsys, error, status, words):
    def raises(*_):
        raise error

    monkeypatch.setattr(RobustSegmentation, "training_step", raises)
    config = ["--config", str(CONF / "tiny.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    assert main(["train", *config]) == status
    said = capsys.readouterr().err
    assert words in said
    assert "--ckpt_path last" in said
    assert "Traceback" not in said


def test_what_nobody_expects_keeps_its_traceback(tmp_path, monkeypatch):
    def raises(*_):
        raise ArithmeticError("a very particular mistake")

    monkeypatch.setattr(RobustSegmentation, "training_step", raises)
    config = ["--config", str(CONF / "tiny.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    with pytest.raises(ArithmeticError):
        main(["train", *config])


def test_what_an_exception_says_of_its_end():
    assert exit_status(KeyboardInterrupt()) == 130
    assert exit_status(SystemExit(2)) == 2
    assert exit_status(ValueError()) == 1
    with pytest.raises(SystemExit) as caught:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)  # as Lightning does
    assert is_interrupt(caught.value)
    assert exit_status(caught.value) == 130
    assert not is_interrupt(SystemExit(1))
    assert is_consequence(RuntimeError("[.../gloo/transport/tcp/pair.cc] Connection closed by peer [10.0.0.1]"))
    assert not is_consequence(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "want of memory"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "data.num_workers lower"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible"), "/dev/shm"),
        (OSError(28, "No space left on device", "runs/events"), "runs/events cannot be written .*make room"),
        (OSError(30, "Read-only file system"), "Read-only"),
        (RuntimeError("[gloo/pair.cc] Connection closed\nby peer"), "another process .*Connection closed by peer"),
    ],
)
def test_known_ends_are_explained(error, words):
    assert re.search(words, explanation(error))
    assert explanation(OSError(2, "No such file")) is None
    assert explanation(RuntimeError("something else")) is None
