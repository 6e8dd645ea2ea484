"""Signals are noted and nothing else; a job asks to be started again only when it may."""

from __future__ import annotations

import os
import signal
import stat

import pytest

from robustseg.resume.preemption import REQUEUE, Preempted, PreemptionSignals, requeue, slurm_job
from tests.helpers.stopping import send_to_self

BOTH = [signal.SIGTERM, signal.SIGUSR1]


@pytest.fixture
def signals():
    noted = PreemptionSignals()
    noted.install()
    yield noted
    noted.restore()
    assert [signal.getsignal(number) for number in BOTH] == [signal.SIG_DFL, signal.SIG_DFL]


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_is_only_noted(signals, number):
    send_to_self(number)
    assert signals.received == number


@pytest.mark.parametrize("number", BOTH)
def test_where_nothing_has_to_be_agreed_on_it_ends_at_once_and_once(signals, number):
    signals.leave_at_once()
    with pytest.raises(Preempted, match=number.name):
        send_to_self(number)
    send_to_self(number)  # while it clears up


def test_one_that_came_before_counts(signals):
    send_to_self(signal.SIGUSR1)
    with pytest.raises(Preempted, match="SIGUSR1"):
        signals.leave_at_once()


def test_it_takes_signals_back_and_returns_them_to_their_first_owner(signals):
    signal.signal(signal.SIGTERM, lambda *_: None)
    signals.install()
    send_to_self(signal.SIGTERM)
    assert signals.received == signal.SIGTERM


def test_a_later_owner_keeps_its_handler():
    noted = PreemptionSignals()
    noted.install()
    other = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    noted.restore()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    assert other == noted._handle
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A scontrol that writes down what it is asked for."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "scontrol"

    def install(status=0):
        path.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\necho not permitted >&2\nexit {status}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return tmp_path / "asked"

    return install


def told(received):
    lines = []
    requeue(received, lines.append)
    (line,) = lines
    return line


def test_outside_of_slurm_the_exit_status_has_to_do(scontrol):
    asked = scontrol()
    assert f"exit status {REQUEUE}" in told(signal.SIGUSR1)
    assert not asked.exists()


def test_a_warned_job_is_requeued(scontrol, monkeypatch):
    asked = scontrol()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert told(signal.SIGUSR1) == "job 17 is requeued."
    assert asked.read_text() == "requeue 17\n"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm_job() == "16_3"
    assert told(None) == "job 16_3 is requeued."


def test_a_cancelled_job_stays_cancelled(scontrol, monkeypatch):
    asked = scontrol()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert "not requeued from here after SIGTERM" in told(signal.SIGTERM)
    assert not asked.exists()


def test_what_cannot_be_requeued_is_told(scontrol, monkeypatch, tmp_path):
    scontrol(status=1)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert "cannot be requeued (not permitted)" in told(signal.SIGUSR1)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert "no scontrol" in told(signal.SIGUSR1)
