"""All readers of the package, each as a function of one path, by the place where it opens its file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.helpers.paths import ROOT


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
    "evaluation/benchmark/probe.py:kept_evidence": table("robustseg.evaluation.benchmark.probe", "kept_evidence"),
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
    "evaluation/benchmark/probe.py:kept_evidence": "what is damaged is probed again, with a warning",
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
