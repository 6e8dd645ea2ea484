"""The answer of every command to Ctrl-C and SIGTERM: it ends at once, at every stage."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from robustseg.resume.ending import Terminated


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise :class:`Terminated` in a ``with`` block, unless somebody handles or ignores it already.

    Commands that run models install handlers of their own later, once their imports are done.
    """
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if ours and signal.getsignal(signal.SIGTERM) == _terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the clean-up after the first
    raise Terminated


def leave(status: int) -> NoReturn:
    """End the process without Python's teardown of modules, which takes seconds after torch was imported."""
    with suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(status)
