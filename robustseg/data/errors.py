"""The one exception that bad data raise."""

from __future__ import annotations

from pathlib import Path


class DataError(ValueError):
    """Data on disk, or the configuration that points at them, cannot be used.

    The message is one line: what is wrong, where, and what to do about it. A ``DataLoader`` re-raises an exception
    of its worker as ``type(error)("Caught DataError in ... Original Traceback ...")``; ``str()`` of that copy is the
    same one line again, and the whole traceback stays in ``args[0]``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def __str__(self) -> str:
        message = str(self.args[0])
        if "\n" not in message:
            return message
        return message.rstrip().rsplit("\n", 1)[-1].split(f"{type(self).__name__}: ", 1)[-1]


def not_permitted(path: Path) -> DataError:
    """The error for a file or folder that this user may not read."""
    return DataError(
        f"{path} cannot be read (permission denied): allow it, as with chmod -R u+rX on the data's folder, or ask its "
        f"owner to."
    )
