"""Interpretation of the exception that ends a process: exit status, kind and remedy."""

from __future__ import annotations

import errno
import traceback

from robustseg.resume.preemption import Preempted


class Terminated(KeyboardInterrupt):
    """Exception that SIGTERM raises where it may end a process at once, as Ctrl-C does."""


def exit_status(error: BaseException) -> int:
    """Return the exit status of a process that ends with an exception."""
    if is_interrupt(error):
        return 143 if isinstance(error, Terminated) or isinstance(error.__context__, Terminated) else 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 1


def is_interrupt(error: BaseException) -> bool:
    """Return whether the cause was Ctrl-C or SIGINT, after which Lightning raises SystemExit."""
    return isinstance(error, KeyboardInterrupt) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)
    )


def is_no_failure(error: BaseException) -> bool:
    """Return whether all ranks raise this exception together, or it is no error."""
    return isinstance(error, Preempted) or (isinstance(error, SystemExit) and exit_status(error) == 0)


def is_consequence(error: BaseException) -> bool:
    """Return whether an exception may come from a collective that another rank has left."""
    if not isinstance(error, RuntimeError):
        return False
    from torch.distributed import DistError  # not at the top: messages of commands without computation need no torch

    if isinstance(error, DistError):
        return True
    text = str(error).lower()
    return type(error) is RuntimeError and any(word in text for word in ("gloo", "nccl", "by peer"))


def traceback_of(error: BaseException) -> str:
    """Return the traceback that Python prints for an unhandled exception."""
    return "".join(traceback.format_exception(error)).rstrip()


_UNUSABLE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "get the right to write there"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "move the file that is in the place of a folder"),
}
"""Remedies for errors of writing, by error number."""


def explanation(error: BaseException) -> str | None:
    """Return cause and remedy of another library's known exception, which has ended long runs; None for any other."""
    text = str(error)
    if is_consequence(error):
        return (
            "another process of this run has ended or cannot be reached, and its own message says why; here: "
            f"{' '.join(text.split())[:1000]}"
        )
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        what = text.split(". ")[0].rstrip(". ")
        if "us error" in text:
            return f"{what}: /dev/shm is full; enlarge it (docker --shm-size), or set data.num_workers lower or to 0."
        return (
            f"{what}: mostly by the kernel, for want of memory (dmesg says so); set data.num_workers lower, data.cache "
            "to false, or ask for more memory."
        )
    if isinstance(error, OSError) and error.errno in _UNUSABLE:
        what = error.filename or "a file of the run"
        return f"{what} cannot be written ({error.strerror}): {_UNUSABLE[error.errno]}, or choose another folder."
    return None
