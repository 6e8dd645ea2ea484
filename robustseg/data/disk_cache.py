"""Disk cache of decoded and resized samples, for all processes and jobs of a machine.

An entry is a header with a checksum and the plain bytes of the image and the mask: 4 bytes per pixel. Plain bytes are
the fastest to read of the formats in ``benchmarks/data_loading.py --formats``. Lossless PNG is a third as large and
takes longer to read than a JPEG.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import warnings
import zlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

import robustseg
from robustseg.data.errors import DataError
from robustseg.data.transforms import Pixels
from robustseg.files import TemporaryFile, remove_left_over
from robustseg.opening.regular import PICTURE, open_regular, status_of

FORMAT = 1
"""Version of the entries; each version has its own folder, so that none reads or replaces another's entries."""

_HEADER = struct.Struct("<8s32sII")
"""Magic number, key, height and width; a checksum of the header and the pixels follows."""
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"RSSAMPLE"
_SIZE = 64
"""Bytes before the image, which aligns it to a cache line."""


def file_fingerprint(*paths: str | Path) -> str:
    """Return an identification of unchanged files: path, size, times and inode.

    The time of modification alone does not suffice, since rsync and tar copy it from the source; the time of the last
    change (ctime) cannot be set. A copied data set is therefore decoded anew. A file in an archive has
    the times of the archive.

    Raises:
        OSError: There is no such file.
    """
    facts = []
    for path in paths:
        status = status_of(path)
        facts.append((os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return repr(facts)


class DiskCache:
    """Samples by key. Reading and writing never raise: an unreadable sample counts as absent, and one that cannot be
    written is not kept.

    Entries are renamed when they are complete, so that any number of processes may share a folder without locks and may
    be killed at any time. Files are read, not mapped: this is as fast, and a shrinking file would kill a process that
    maps it. Only unfinished files of killed processes are ever removed; the folder can be deleted at any time.

    Args:
        folder: The folder, created if it does not exist; a local disk is best.

    Raises:
        DataError: The folder cannot be created or read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(os.path.abspath(Path(folder).expanduser()))
        self.entries = self.folder / f"samples-v{FORMAT}"
        self._versions = _versions()
        # in shared memory: the first worker of this process that meets a full disk warns for all
        self._stopped = torch.zeros((), dtype=torch.bool)
        with contextlib.suppress(RuntimeError):  # without /dev/shm each process warns for itself
            self._stopped.untyped_storage().share_memory_()
        try:
            if not self.entries.is_dir():
                self._unfinished.mkdir(parents=True, exist_ok=True)
            with os.scandir(self.entries) as names:
                next(names, None)
        except OSError as error:
            raise DataError(
                f"data.disk_cache = {str(folder)!r} cannot be used ({_reason(error)}): name a folder that can be "
                "written to, or leave it out."
            ) from error
        remove_left_over(self._unfinished)

    @property
    def _unfinished(self) -> Path:
        return self.entries / "unfinished"

    def key(self, *parts: object) -> str:
        """Return the name of the entry for ``parts``, this version of the package and that of the decoders."""
        return hashlib.sha256(repr((self._versions, *parts)).encode()).hexdigest()

    def path(self, key: str) -> Path:
        """Return the path of an entry, which need not exist."""
        return self.entries / key[:2] / f"{key}.sample"

    def load(self, key: str) -> tuple[Pixels, Pixels] | None:
        """Read the image (H×W×3) and the mask (H×W) of a key; return None without an undamaged entry."""
        try:
            with open_regular(self.path(key), PICTURE) as file:
                start = file.read(_SIZE)
                if len(start) < _SIZE:
                    return None
                header = start[: _HEADER.size]
                magic, found_key, height, width = _HEADER.unpack(header)
                size = 4 * height * width
                there = os.fstat(file.fileno()).st_size - _SIZE
                if magic != _MAGIC or found_key != bytes.fromhex(key) or there != size:
                    return None
                pixels = np.empty(size, np.uint8)
                if file.readinto(pixels.data) != size:
                    return None
        except (OSError, MemoryError):  # from a file that is no entry
            return None
        (checksum,) = _CHECKSUM.unpack_from(start, _HEADER.size)
        if zlib.crc32(pixels.data, zlib.crc32(header)) != checksum:
            return None
        split = 3 * height * width
        return pixels[:split].reshape(height, width, 3), pixels[split:].reshape(height, width)

    def store(self, key: str, image: Pixels, mask: Pixels) -> None:
        """Keep a sample if possible; at the first failure, warn and store no more."""
        if self._stopped:
            return
        if image.dtype != np.uint8 or mask.dtype != np.uint8 or image.shape != (*mask.shape, 3):
            self._stop(f"it keeps 8-bit H×W×3 images with H×W masks only, not {_form(image)} with {_form(mask)}")
            return
        image, mask = np.ascontiguousarray(image), np.ascontiguousarray(mask)
        header = _HEADER.pack(_MAGIC, bytes.fromhex(key), *mask.shape)
        checksum = _CHECKSUM.pack(zlib.crc32(mask.data, zlib.crc32(image.data, zlib.crc32(header))))
        try:
            self._write(self.path(key), (header + checksum).ljust(_SIZE, b"\0"), image.data, mask.data)
        except IsADirectoryError:  # a folder in the place of this entry
            return
        except OSError as error:
            self._stop(_reason(error))

    def _write(self, path: Path, *parts: bytes | memoryview) -> None:
        self._unfinished.mkdir(parents=True, exist_ok=True)  # the folder may have been deleted
        with TemporaryFile(path, self._unfinished) as file:
            for part in parts:
                file.write(part)
            path.parent.mkdir(exist_ok=True)
            file.become(path, durable=False)

    def _stop(self, reason: str) -> None:
        self._stopped.fill_(True)
        warnings.warn(
            f"data.disk_cache = {str(self.folder)!r}: a sample could not be kept ({reason}); what is there goes on "
            "being used, and nothing is added any more.",
            stacklevel=2,
        )


def _versions() -> tuple[str, ...]:
    """Return the versions of the decoders, which affect a sample's bits: libjpeg versions round differently."""
    found = [robustseg.__version__]
    for name in ("pillow", "opencv-python-headless", "opencv-python", "albumentations"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return tuple(found)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _form(array: Pixels) -> str:
    return f"{'×'.join(map(str, array.shape))} {array.dtype}"
