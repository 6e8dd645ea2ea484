"""Process isolation of the doctor's sections: a section may hang or crash without affecting the others."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import IO, Any

from robustseg.doctor.findings import Finding, problem

Check = Callable[..., Iterator[Finding]]

# Forking saves an import of torch per section; CUDA and OpenMP's threads have not been used before. macOS's own
# libraries do not survive a fork.
CONTEXT = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")

_REPORT = "If the message does not explain it, please report it with the output of robustseg doctor --json FILE."


def run_isolated(check: Check, arguments: tuple[Any, ...], limit: float) -> list[Finding]:
    """Run one section and return its findings, also those from before a hang or crash.

    Args:
        check: Generator function at the top level of a module.
        arguments: Its arguments, which can be pickled.
        limit: Seconds after which the section and all its processes are killed.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    findings: list[Finding] = []
    with _captured() as log:
        process = CONTEXT.Process(target=_section, args=(check, arguments, sender, log.fileno(), os.getpid()))  # type: ignore[attr-defined]
        process.start()
        sender.close()
        try:
            ended = _receive(receiver, process.sentinel, findings, time.monotonic() + limit)
        finally:
            # before the process is waited for: until then its number cannot be reused
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join(5)
            receiver.close()
        if not ended:
            findings.append(
                problem(
                    "time limit",
                    f"This section did not finish within {limit:.0f} s and was ended.",
                    "Whatever it would have looked at next hangs: a device, the network or a file system.",
                )
            )
        elif process.exitcode:
            findings.append(_crashed(process.exitcode, log))
    return findings


def _receive(receiver: Connection, sentinel: int, findings: list[Finding], deadline: float) -> bool:
    """Collect findings until the section ends; return False if the time is up first."""
    while (left := deadline - time.monotonic()) > 0:
        ready = wait([receiver, sentinel], timeout=left)
        if receiver in ready:
            try:
                findings.append(Finding(*receiver.recv()))
            except EOFError:
                wait([sentinel], timeout=left)
                return True
        elif sentinel in ready:
            return True
    return False


def _captured() -> IO[bytes]:
    """Open a file for a section's own output, or the null device if there is no room for temporary files."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return open(os.devnull, "w+b")


def _crashed(exitcode: int, log: IO[bytes]) -> Finding:
    how = f"exit status {exitcode}"
    if exitcode < 0:
        with contextlib.suppress(ValueError):
            how = signal.Signals(-exitcode).name
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    said = f"; its last words: {lines[-1].strip()[:300]}" if lines else ""
    return problem("crash", f"This section's process ended by {how}{said}.", _REPORT, exitcode=exitcode)


def _section(check: Check, arguments: tuple[Any, ...], sender: Connection, log: int, parent: int) -> None:
    """Run a section in its process and send its findings."""
    os.setpgid(0, 0)
    if CONTEXT.get_start_method() == "fork":
        # The output of libraries would disturb the report.
        os.dup2(log, 1)
        os.dup2(log, 2)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        for finding in check(*arguments):
            sender.send(tuple(finding))
    except Exception as error:
        lines = traceback.format_exc()
        text = f"This section failed with {type(error).__name__}: {error}"
        sender.send(tuple(problem("crash", text, _REPORT, traceback=lines)))


def _end_with(parent: int) -> None:
    """End this section once the doctor's own process has been killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)
