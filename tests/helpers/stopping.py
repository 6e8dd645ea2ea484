"""Ctrl-C and SIGTERM end pytest at once, wherever a test is.

A command under test answers these signals itself, with an exit status that the test then judges, and the suite would go
on. Here the interpreter also writes each signal into a pipe, whichever handler is installed, and a thread reads it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

_ENDING = {signal.SIGINT, signal.SIGTERM}
_expected: list[int] = []
_ends = threading.Event()


def send_to_self(number: int) -> None:
    """Send a signal to this process that is part of a test and ends nothing."""
    _expected.append(number)
    os.kill(os.getpid(), number)


def end_on_signals() -> None:
    """Start the thread; to be called once, in the main thread."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    # a forked child would report its own signals to this process
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_watch, args=(reading, os.getppid()), daemon=True).start()


def wait_if_it_ends() -> None:
    """Begin nothing new while this process is being ended, which takes the time to look for what it has started."""
    if _ends.is_set():
        threading.Event().wait()


def _watch(reading: int, parent: int) -> None:
    if os.environ.get("PYTEST_XDIST_WORKER"):
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        for number in os.read(reading, 64):
            if number in _expected:
                _expected.remove(number)
            elif number in _ENDING:
                _end(128 + number)


def _end_with(parent: int) -> None:
    """End a worker whose pytest has gone."""
    while os.getppid() == parent:
        threading.Event().wait(0.5)
    _end(1)


def _end(status: int) -> None:
    """End this process and all that it has started."""
    _ends.set()
    for child in _descendants(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    os.write(2, f"\npytest: ended with status {status}\n".encode())
    os._exit(status)


def _descendants(of: int) -> list[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
    found: list[int] = []
    for process in parents:
        line = process
        while line in parents and line != of:
            line = parents[line]
        if line == of and process != of:
            found.append(process)
    return found
