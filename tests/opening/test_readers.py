"""Every reader of the package, a list made from its code, against pipes, devices, folders and files that never end."""

from __future__ import annotations

import ctypes
import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import robustseg.config.build
import robustseg.studies.run  # noqa: F401
from robustseg.config.errors import is_expected
from tests.opening.calls import calls
from tests.opening.readers import OWN, READERS, SILENT, THROUGH

OPENING = {
    *("open_regular", "read_bytes", "read_text", "read_json", "open_picture", "load_tensors", "load_safetensors"),
    *("load_safetensors_about", "read_arrays", "check_regular", "unreadable", "status_of", "entries_of"),
    "unkept_index",
}
"""Functions of robustseg.opening that take a path."""
ELSEWHERE = {
    *("open", "fdopen", "read_text", "read_bytes", "loadmat", "ZipFile", "is_zipfile", "imread", "OSFile"),
    *("memory_map", "mmap", "fromfile", "memmap", "load_file", "safe_open", "loadtxt", "genfromtxt", "copyfile"),
    *("copytree", "copy2", "load_state_dict_from_file", "TarFile", "read_csv", "open_file"),
}
"""Names of other functions that open files, whatever module they are of."""
LOADERS = {"np.load", "numpy.load", "torch.load", "pickle.load", "json.load", "tarfile.open", "Image.open", "yaml.load"}
ALLOWED = {
    "files.py": "writes; it opens its own temporary files",
    "writing/rough.py": "the same",
    "cli/main.py:main": "the null device",
    "cli/survey.py:_new": "writes a new file",
    "doctor/isolation.py:_captured": "the null device",
    "doctor/paths.py:_written": "its own file in a folder that it has made",
    "doctor/paths.py:_replace": "the same",
    "doctor/paths.py:_symbolic": "the same",
    "doctor/paths.py:_lock": "the same",
    "doctor/paths.py:_file_system": "a file of the system",
    "doctor/ranks.py:_is_down": "a file of the system",
    "evaluation/evaluator.py:Evaluator.__init__": "a sink, no file",
    "evaluation/report/pages.py:render": "a file of the package",
    "evaluation/store.py:_create": "writes a new file",
    "resume/checkpoint_files.py:_link": "syncs the copy that it has made",
    "training/csv_file.py:CsvFile._rows": "by Lightning's file system, which may be a remote one",
    "training/csv_file.py:CsvFile._write": "writes, by the same",
}
"""Places outside of robustseg.opening that open files, each with the reason."""


def outside() -> Iterator[tuple[str, str, bool]]:
    """Place, name of the function, and whether it is imported from robustseg.opening, of each call outside of it."""
    for call in calls():
        if not call.path.startswith("opening/"):
            yield call.place, call.name, call.module.startswith("robustseg.opening")


def test_nothing_else_opens_a_file():
    found = set()
    for place, name, own in outside():
        last = name.rpartition(".")[2]
        if not own and (last in ELSEWHERE or name in LOADERS):
            found.add(place)
    known = {place for place in found if place in ALLOWED or place.partition(":")[0] in ALLOWED}
    assert not found - known, "read it by robustseg.opening, or name the place and the reason here"
    assert {key for key in ALLOWED if ":" in key} <= found, "a place that opens nothing any more is named here"


def readers() -> set[str]:
    return {place for place, name, own in outside() if own and name.rpartition(".")[2] in OPENING}


def test_each_reader_has_a_case():
    assert readers() - OWN.keys() == READERS.keys() - THROUGH


def make(kind: str, path: Path) -> None:
    """Put a hostile thing to a path."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        os.mkfifo(path.with_name("other pipe"))
        path.symlink_to(path.with_name("other pipe"))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "unreadable":
        path.write_bytes(b"x" * 100)
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        path.write_bytes((PICTURES.get(path.suffix, b'{"format": 2, "a": [1, '))[:40])
    elif kind == "endless":
        path.touch()
        os.truncate(path, 2**43)


PICTURES = {
    ".png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\x02\0\0\0\x90\x91h6\0\0\0\x10IDATx\x9c",
    ".mat": b"MATLAB 5.0 MAT-file".ljust(126) + b"IM\x0e\0\0\0\xff\xff\xff\0",
    ".pt": b"PK\x03\x04" + bytes(60),
    ".zip": b"PK\x03\x04" + bytes(60),
}
SUFFIX = {
    "data/sbd.py:check_sbd_header": ".mat",
    "data/sbd.py:read_sbd_mask": ".mat",
    **{f"data/folders.py:{name}": ".zip" for name in ("_entries", "_keep_index", "_mode", "listed")},
    "data/disk_cache.py:file_fingerprint": ".zip",
    **dict.fromkeys((place for place in READERS if "checkpoint" in place), ".pt"),
    **dict.fromkeys((place for place in READERS if place.startswith(("data/mask", "data/pict", "data/files"))), ".png"),
    **dict.fromkeys((place for place in READERS if place.startswith(("cli/", "shipped/"))), ".yaml"),
}
KINDS = ("pipe", "link to a pipe", "device", "folder", "unreadable", "empty", "truncated", "endless")
NEVER = ("pipe", "link to a pipe", "device", "endless")
"""Kinds that no reader may pass over in silence, but for those that return what is wrong."""


def forget_peak() -> int:
    """Begin a new count of :func:`peak`, which it returns, with the free memory of malloc given back.

    Earlier tests may have left gigabytes there: what a reader takes of them would not be counted.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Most memory of this process since the last reset, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


@pytest.fixture
def in_time():
    """Ends a reader that waits for ever."""

    def late(*_):
        raise AssertionError("the reader waits for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("place", READERS)
def test_a_hostile_file(place, tmp_path, monkeypatch, in_time):
    for kind in KINDS:
        folder = tmp_path / kind.replace(" ", "_")
        folder.mkdir()
        path = folder / f"x{SUFFIX.get(place, '')}"
        make(kind, path)
        with monkeypatch.context() as patch:
            if kind == "unreadable":  # root may read everything
                plain = os.open

                def locked(name, *args, plain=plain, **kwargs):
                    if isinstance(name, (str, os.PathLike)) and "unreadable" in os.fspath(name):
                        raise PermissionError(13, "Permission denied", os.fspath(name))
                    return plain(name, *args, **kwargs)

                patch.setattr(os, "open", locked)
            before, start, error, found = forget_peak(), time.process_time(), None, None
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                try:
                    found = READERS[place](path)
                except Exception as caught:
                    error = caught
            assert time.process_time() - start < 1, kind
            assert peak() - before < 200 * 2**20, kind
        if error is not None:
            assert is_expected(error) or isinstance(error, (OSError, ValueError)), (kind, repr(error))
            assert "\n" not in str(error), kind
            assert "x" in str(error) or folder.name in str(error), (kind, str(error))
        elif place not in SILENT:
            assert kind in ("empty", "truncated", "folder"), (kind, found)
            assert not found, kind
        elif kind in NEVER and not said:
            assert place in (*RETURNS, *ABSENT), (kind, found)


RETURNS = ("resume/checkpoint_reading.py:broken", "resume/checkpoint_reading.py:unreadable")
ABSENT = (
    "config/folder.py:logged_by_an_earlier_version",
    "config/loggers.py:_versions",
    "data/disk_cache.py:DiskCache.load",
    "evaluation/pictures.py:PictureKeeper.load",
    "evaluation/records.py:refusal",
    "models/checkpoints/reading.py:sha256",
)


def test_the_memory_that_is_measured_is_that_of_this_process():
    pieces = [os.urandom(1) * 2**16 for _ in range(2000)]
    del pieces[:-1]  # free in malloc's heap, which the last piece keeps from being given back
    before = forget_peak()
    content = [os.urandom(1) * 2**16 for _ in range(1024)]
    assert peak() - before > 60 * 2**20
    assert len(content)
