"""A terminal for a process under test, and what it showed when."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import signal
import struct
import termios
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.helpers.paths import ROOT


class Captured(NamedTuple):
    """What a process wrote into its terminal."""

    status: int
    pieces: list[tuple[float, str]]
    """Seconds since the start, and text as it was written."""

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.pieces)

    def states(self) -> list[tuple[float, str]]:
        """The states of the bar, each once, with the seconds at which it appeared."""
        found: list[tuple[float, str]] = []
        for moment, piece in self.pieces:
            for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", piece).replace("\r", "\n").split("\n"):
                if re.search(r"[━─]+ .*\d:\d\d", line) and (not found or line != found[-1][1]):
                    found.append((moment, line))
        return found


def seconds_of(text: str) -> int:
    """Seconds of ``1:02`` or ``1:00:02``."""
    total = 0
    for part in text.split(":"):
        total = 60 * total + int(part)
    return total


def in_terminal(command: Sequence[str], columns: int = 80, interrupt_after: str | None = None) -> Captured:
    """Run a process in a terminal of its own.

    Args:
        command: The command.
        columns: Width of the terminal.
        interrupt_after: Press Ctrl-C once this text was written.
    """
    # given as a whole, since readline sets the size in the environment without Python's knowledge
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process, terminal = pty.fork()
    if not process:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.execvpe(command[0], command, environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    start, pieces = time.monotonic(), []
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    while True:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # the process has closed it
            break
        if not data:
            break
        pieces.append((time.monotonic() - start, decode(data)))
        if interrupt_after is not None and interrupt_after in "".join(text for _, text in pieces):
            interrupt_after = None
            os.write(terminal, b"\x03")
            pieces.append((time.monotonic() - start, "<Ctrl-C>"))
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    pieces.append((time.monotonic() - start, ""))
    os.close(terminal)
    return Captured(status, pieces)
