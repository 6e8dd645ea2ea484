"""Directory of an archive: its files by name, and the names in each folder."""

from __future__ import annotations

from typing import NamedTuple

from robustseg.opening.system import UnfitFile

_DEEPEST = 100
"""Most folders within one another."""
_MOST = 2**24
"""Most files of an archive."""


class Member(NamedTuple):
    """A file in an archive."""

    start: int
    """Place of its header in the archive, in bytes."""
    packed: int
    """Bytes that are stored of it."""
    size: int
    """Bytes of its content."""
    deflated: bool = False
    """True if its content is compressed."""
    crc: int | None = None
    """Checksum of its content; None in a tar, which has none."""
    fault: str = ""
    """Reason for which it cannot be read in place."""


class Index:
    """Files and folders of an archive, as unpacking would make them.

    Args:
        archive: Path of the archive, for messages.
    """

    def __init__(self, archive: str) -> None:
        self.archive = archive
        self.members: dict[str, Member] = {}
        """Files by place, with slashes."""
        self.folders: dict[str, dict[str, None]] = {"": {}}
        """Names in each folder; the archive itself is the folder ``""``."""
        self.is_kept = True
        """False for one that took long to build and is in no file yet."""

    def add(self, name: str, member: Member | None) -> None:
        """Add a file, or a folder if ``member`` is None.

        Raises:
            UnfitFile: Its name leads out of the archive, or is that of another member.
        """
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or "\\" in name or ".." in parts or name[1:2] == ":":
            raise self.unfit(f"its member {name!r} is not named as a place in it: unpack it with care, or pack it anew")
        if len(parts) > _DEEPEST or len(self.members) >= _MOST:
            raise self.unfit(f"it has more than {_MOST:,} files, or folders more than {_DEEPEST} deep: unpack it")
        place = "/".join(parts)
        if not parts or (member is None and place in self.folders):
            return
        if place in self.members or place in self.folders:
            raise self.unfit(f"it has two members called {place}: pack it anew with one of them")
        if member is None:
            self.folders[place] = {}
        else:
            self.members[place] = member
        while parts:
            last, above = parts.pop(), "/".join(parts)
            if above in self.members:
                raise self.unfit(f"its member {above} is a file and a folder: pack it anew")
            known = above in self.folders
            self.folders.setdefault(above, {})[last] = None
            if known:
                break

    def unfit(self, reason: str) -> UnfitFile:
        """Return an error about the archive."""
        return UnfitFile(reason, self.archive)
