"""Every reader of the package, a list made from its code, against pipes, devices, folders and files that never end."""

from __future__ import annotations

import ast
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import robustseg.config.build
import robustseg.studies.run  # noqa: F401
from robustseg.config.errors import is_expected
from tests.helpers.paths import ROOT

PACKAGE = ROOT / "robustseg"
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


def calls() -> Iterator[tuple[str, str, bool]]:
    """Place, name of the function, and whether it is imported from robustseg.opening, of each call outside of it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(PACKAGE / "opening"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        ours = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("robustseg.opening")
            for alias in node.names
        }
        stack: list[tuple[ast.AST, str]] = [(tree, "")]
        while stack:
            node, within = stack.pop()
            for child in ast.iter_child_nodes(node):
                inner = within
                if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                    inner = f"{within}.{child.name}".strip(".")
                if isinstance(child, ast.Call):
                    name = ast.unparse(child.func)
                    own = name in ours or name.partition(".")[0] in ours
                    yield f"{path.relative_to(PACKAGE).as_posix()}:{within}", name, own
                stack.append((child, inner))


def test_nothing_else_opens_a_file():
    found = set()
    for place, name, own in calls():
        last = name.rpartition(".")[2]
        if not own and (last in ELSEWHERE or name in LOADERS):
            found.add(place)
    known = {place for place in found if place in ALLOWED or place.partition(":")[0] in ALLOWED}
    assert not found - known, "read it by robustseg.opening, or name the place and the reason here"
    assert {key for key in ALLOWED if ":" in key} <= found, "a place that opens nothing any more is named here"


def readers() -> set[str]:
    return {place for place, name, own in calls() if own and name.rpartition(".")[2] in OPENING}


def mask_format() -> Any:
    from robustseg.data.masks import MaskFormat

    return MaskFormat.of_classes([("a", (0, 0, 0)), ("b", (1, 1, 1))])


def pair_with(path: Path) -> Any:
    from robustseg.data.files import FilePair

    return FilePair("x", path, path)


def disk_cache(path: Path) -> object:
    from robustseg.data.disk_cache import DiskCache

    cache = DiskCache(path.parent / "cache")
    key = cache.key("x")
    place = cache.path(key)
    place.parent.mkdir(parents=True)
    os.replace(path, place)
    return cache.load(key)


def moved(path: Path, *parts: str) -> Path:
    """Put the hostile thing to another place below its folder, whose name a reader finds by itself."""
    place = path.parent.joinpath(*parts)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, place)
    return place


def picture(path: Path) -> object:
    from robustseg.evaluation.pictures import PictureKeeper

    keeper = PictureKeeper(path.parent)
    moved(path, keeper._path("a", "x").relative_to(path.parent).as_posix())
    return keeper.load("a", "x")


def refusal(path: Path) -> object:
    from robustseg.evaluation.records import refusal, refusal_path

    moved(path, refusal_path(path.parent, "a").relative_to(path.parent).as_posix())
    return refusal(path.parent, "a")


def merged(path: Path) -> object:
    from robustseg.evaluation.benchmark.run import _copy

    return _copy(path, path.parent / "out" / "x")


def records(path: Path) -> object:
    from robustseg.evaluation.store import Stream, read_records

    return list(read_records(Stream(path, {"num_classes": 2}, ())))


def shipped(path: Path) -> object:
    from robustseg.shipped.names import find

    return find(str(path)).read_bytes()


def table(module: str, name: str, *more: Any) -> Callable[[Path], object]:
    """A reader that takes the path first."""

    def read(path: Path) -> object:
        function: Any = __import__(module, fromlist=["_"])
        for part in name.split("."):
            function = getattr(function, part)
        return function(path, *(each() if callable(each) else each for each in more))

    return read


def detector() -> Any:
    from robustseg.detectors import ScaleConsistency

    return ScaleConsistency()


READERS: dict[str, Callable[[Path], object]] = {
    "attacks/targets/label_files.py:read_labels": table("robustseg.attacks.targets.label_files", "read_labels", 2, 255),
    "attacks/universal/delta.py:_read": table("robustseg.attacks.universal.delta", "UniversalDelta.load"),
    "cli/configs.py:_text": table("robustseg.cli.configs", "_text", False),
    "cli/configs.py:_copy": lambda path: _copied(path),
    "config/folder.py:logged_by_an_earlier_version": lambda path: _logged_earlier(path),
    "config/loggers.py:_versions": lambda path: _logger_versions(path),
    "config/benchmark_of.py:read_ids": table("robustseg.config.benchmark_of", "read_ids"),
    "data/class_table.py:_entries": table("robustseg.data.class_table", "read_class_table"),
    "data/disk_cache.py:DiskCache.load": disk_cache,
    "data/files.py:check_headers": lambda path: _checked_headers(path),
    "data/files.py:_check_same_size": lambda path: _same_size(path),
    "data/disk_cache.py:file_fingerprint": lambda path: _fingerprint(path),
    "data/folders.py:_entries": table("robustseg.data.folders", "files_below"),
    "data/folders.py:_keep_index": lambda path: _in_archive(path),
    "data/folders.py:_mode": lambda path: _in_archive(path),
    "data/folders.py:listed": table("robustseg.data.folders", "listed"),
    "data/folders.py:read_list": table("robustseg.data.folders", "read_list"),
    "data/masks.py:MaskFormat.check_header": lambda path: mask_format().check_header(path),
    "data/masks.py:MaskFormat.read": lambda path: mask_format().read(path),
    "data/pictures.py:open_picture": table("robustseg.data.pictures", "open_picture"),
    "data/pictures.py:decode_image": table("robustseg.data.pictures", "decode_image"),
    "data/sbd.py:check_sbd_header": table("robustseg.data.sbd", "check_sbd_header"),
    "data/sbd.py:read_sbd_mask": table("robustseg.data.sbd", "read_sbd_mask"),
    "detectors/threshold.py:Threshold.load": table("robustseg.detectors", "Threshold.load", detector),
    "evaluation/benchmark/probe.py:_read": table("robustseg.evaluation.benchmark.probe", "_read"),
    "evaluation/benchmark/run.py:_copy": merged,
    "evaluation/benchmark/thresholds.py:_read": table("robustseg.evaluation.benchmark.thresholds", "_read", dict),
    "evaluation/card_file.py:read_card": table("robustseg.evaluation", "read_card"),
    "evaluation/pictures.py:PictureKeeper.load": picture,
    "evaluation/protocol.py:read": lambda path: _protocol(path),
    "evaluation/records.py:refusal": refusal,
    "evaluation/store.py:streams": lambda path: _streams(path),
    "evaluation/store.py:read_records": records,
    "models/adapters/transformers.py:_json": table("robustseg.models.adapters.transformers", "_json"),
    "models/checkpoints/read.py:read_plain": table("robustseg.models.checkpoints.read", "read_weights"),
    "models/checkpoints/read.py:_not_weights": table("robustseg.models.checkpoints.read", "read_plain"),
    "models/checkpoints/reading.py:sha256": table("robustseg.models.checkpoints.reading", "sha256"),
    "resume/checkpoint_reading.py:broken": table("robustseg.resume.checkpoint_reading", "damage"),
    "resume/checkpoint_reading.py:unreadable": table("robustseg.resume.checkpoint_reading", "unreadable"),
    "resume/checkpoint_reading.py:read_plain_content": table(
        "robustseg.resume.checkpoint_reading", "read_plain_content"
    ),
    "shipped/includes.py:read": table("robustseg.shipped.includes", "complete"),
    "shipped/names.py:find": shipped,
    "shipped/names.py:leading_comment": table("robustseg.shipped.names", "leading_comment"),
}
"""A call of each reader with the path of its file."""
THROUGH = {
    *("data/files.py:check_headers", "data/files.py:_check_same_size", "data/pictures.py:decode_image"),
    *("data/masks.py:MaskFormat.check_header", "data/masks.py:MaskFormat.read"),
}
"""Readers by data.pictures.open_picture."""
OWN = {
    "models/catalogue.py:catalogue": "files of the package",
    "config/named.py:_read_text": "tried by the whole parser, in tests/config/test_files_of_parser.py",
}
SILENT = {
    "data/disk_cache.py:DiskCache.load": "a sample that cannot be read is decoded again",
    "evaluation/pictures.py:PictureKeeper.load": "a picture that cannot be read is left out of the report",
    "evaluation/records.py:refusal": "an attack without a readable note is run again",
    "models/checkpoints/reading.py:sha256": "it is of any file, and of one that does not exist",
    "resume/checkpoint_reading.py:broken": "it returns the fault",
    "resume/checkpoint_reading.py:unreadable": "it returns the fault",
    "config/folder.py:logged_by_an_earlier_version": "a run without readable settings is none of an earlier version",
    "config/loggers.py:_versions": "loggers without readable versions get new ones",
    "cli/configs.py:_text": "it prints any text",
    "cli/configs.py:_copy": "it compares any text",
    "evaluation/benchmark/run.py:_copy": "it copies any file",
    "evaluation/benchmark/probe.py:_read": "what is damaged is probed again, with a warning",
    "evaluation/benchmark/thresholds.py:_read": "what is damaged is scored again, with a warning",
    "evaluation/store.py:streams": "what is damaged is measured again, with a warning",
    "evaluation/store.py:read_records": "the same",
    "shipped/names.py:find": "it looks for a file",
    "shipped/names.py:leading_comment": "any text may be without a comment",
    "config/benchmark_of.py:read_ids": "names that the data lacks are refused later",
}
"""Readers that need not raise for content that is empty or cut off, each with the reason."""


def _copied(path: Path) -> object:
    from robustseg.cli.configs import _copy

    folder = path.parent / "copy"
    folder.mkdir()
    os.replace(path, folder / "x.yaml")
    return _copy({"x": ROOT / "configs" / "quickstart.yaml"}, folder)


def _logger_versions(path: Path) -> object:
    from robustseg.config.loggers import LOGGERS, _versions

    return _versions(SimpleNamespace(purge_step=0, folder=moved(path, LOGGERS).parent))


def _in_archive(path: Path) -> object:
    from robustseg.data.folders import existing_folder

    return existing_folder(path / "x", "x")


def _fingerprint(path: Path) -> object:
    from robustseg.data.disk_cache import file_fingerprint

    return file_fingerprint(path / "x")


def _logged_earlier(path: Path) -> object:
    from robustseg.config.folder import logged_by_an_earlier_version

    return logged_by_an_earlier_version(moved(path, "config.yaml").parent)


def _checked_headers(path: Path) -> object:
    from robustseg.data.files import check_headers

    return check_headers([pair_with(path)], mask_format())


def _same_size(path: Path) -> object:
    from robustseg.data.files import _check_same_size

    return _check_same_size(pair_with(path), (1, 2), (2, 2))


def _protocol(path: Path) -> object:
    from robustseg.evaluation.protocol import read

    return read(moved(path, "protocol.json").parent)


def _streams(path: Path) -> object:
    from robustseg.evaluation.store import streams

    moved(path, "records", "x.arrows")
    return streams(path.parent)


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
            Path("/proc/self/clear_refs").write_text("5")
            before, start, error, found = peak(), time.process_time(), None, None
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
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    content = bytearray(os.urandom(1) * (64 * 2**20))
    assert peak() - before > 60 * 2**20
    assert len(content)
