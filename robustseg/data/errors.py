"""Exception for bad data."""

from __future__ import annotations

from pathlib import Path


class DataError(ValueError):
    """Error for data on disk, or a configuration of them, that cannot be used.

    The message is one line with the fault, the place and the remedy. A ``DataLoader`` re-raises an exception of its
    worker as ``type(error)("Caught DataError in ... Original Traceback ...")``; ``str()`` of that copy is the same line
    again, and the whole traceback stays in ``args[0]``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def __str__(self) -> str:
        message = str(self.args[0])
        if "\n" not in message:
            return message
        return message.rstrip().rsplit("\n", 1)[-1].split(f"{type(self).__name__}: ", 1)[-1]


def not_permitted(path: Path) -> DataError:
    """Return the error for a file or folder that this user may not read."""
    return DataError(
        f"{path} cannot be read (permission denied): allow it, as with chmod -R u+rX on the data's folder, or ask its "
        f"owner to."
    )
