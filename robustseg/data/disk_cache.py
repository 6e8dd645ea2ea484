"""Decoded and resized samples in a folder, for all processes and jobs of a machine.

An entry is a header with a checksum and the plain bytes of the image and the mask: 4 bytes per pixel. No format that
``benchmarks/data_loading.py --formats`` compares is read faster than plain bytes. Lossless PNG is a third as large and
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

FORMAT = 1
"""Of the entries: another one is another folder, so that neither version reads or replaces the other's."""

_HEADER = struct.Struct("<8s32sII")
"""Magic number, key, height and width; the checksum of it and of the pixels follows."""
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"RSSAMPLE"
_SIZE = 64
"""Bytes before the image, so that it starts where a cache line does."""


def file_fingerprint(*paths: str | Path) -> str:
    """What tells that files are the ones that were read before: path, size, times, and number on the disk (inode).

    The time of modification alone does not, as rsync and tar give a file that of its source; that of the last change of
    any kind cannot be set. A data set that is copied to other files is therefore decoded afresh.

    Raises:
        OSError: There is no such file.
    """
    facts = []
    for path in paths:
        status = os.stat(path)
        facts.append((os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return repr(facts)


class DiskCache:
    """Samples by key. Reading and writing never raise: what cannot be read is not there, what cannot be written is not
    kept.

    Entries appear whole, by renaming, so that any number of processes may share a folder without locks, and be killed
    at any moment. Files are read, not mapped: it is as fast, and a file that shrinks kills no process that maps it.
    Nothing is ever removed but what killed processes left unfinished; the folder can be deleted at any time.

    Args:
        folder: Made where it does not exist; a disk of the machine itself is best.

    Raises:
        DataError: It cannot be made or read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(os.path.abspath(Path(folder).expanduser()))
        self.entries = self.folder / f"samples-v{FORMAT}"
        self._versions = _versions()
        # in shared memory: whichever worker of this process meets a full disk first warns on behalf of all
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
        """Name of the entry that is made from ``parts`` by this version of the package and of the decoders."""
        return hashlib.sha256(repr((self._versions, *parts)).encode()).hexdigest()

    def path(self, key: str) -> Path:
        """Where an entry is, or would be."""
        return self.entries / key[:2] / f"{key}.sample"

    def load(self, key: str) -> tuple[Pixels, Pixels] | None:
        """The image (H×W×3) and the mask (H×W) stored under a key, or None where there is no undamaged entry."""
        try:
            # unbuffered: the pixels go straight to where they stay
            with open(self.path(key), "rb", buffering=0) as file:
                content = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
                if file.readinto(content.data) != len(content):
                    return None
        except (OSError, MemoryError):  # of a file that is no entry
            return None
        if len(content) < _SIZE:
            return None
        header = content[: _HEADER.size].tobytes()
        magic, found_key, height, width = _HEADER.unpack(header)
        (checksum,) = _CHECKSUM.unpack(content[len(header) : len(header) + _CHECKSUM.size].tobytes())
        pixels = content[_SIZE:]
        if magic != _MAGIC or found_key != bytes.fromhex(key) or len(pixels) != 4 * height * width:
            return None
        if zlib.crc32(pixels.data, zlib.crc32(header)) != checksum:
            return None
        split = 3 * height * width
        return pixels[:split].reshape(height, width, 3), pixels[split:].reshape(height, width)

    def store(self, key: str, image: Pixels, mask: Pixels) -> None:
        """Keep a sample, if it can be; the first time that it cannot, warn and store no more."""
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
        except IsADirectoryError:  # in the place of this one entry
            return
        except OSError as error:
            self._stop(_reason(error))

    def _write(self, path: Path, *parts: bytes | memoryview) -> None:
        self._unfinished.mkdir(parents=True, exist_ok=True)  # someone may have deleted the folder
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
    """What a sample's bits depend on beside its files: another libjpeg rounds another way."""
    found = [robustseg.__version__]
    for name in ("pillow", "opencv-python-headless", "opencv-python", "albumentations"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return tuple(found)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _form(array: Pixels) -> str:
    return f"{'×'.join(map(str, array.shape))} {array.dtype}"
