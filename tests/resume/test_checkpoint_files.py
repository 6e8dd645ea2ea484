"""Checkpoint files: complete whenever they are there, whatever is done to their writer, their bytes and their disk."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from robustseg.files import TemporaryFile
from robustseg.resume import checkpoint_files
from robustseg.resume.checkpoint_files import (
    CheckpointError,
    checkpoint_name,
    checkpoints,
    damage,
    keep_newest,
    link_last,
    newest_usable,
    write_checkpoint,
)
from tests.helpers.paths import ROOT
from tests.resume.checkpoint_kills import Hostile, assert_content, content, kill_at_random, killed_before_change
from tests.resume.runs import fingerprint

SMALL = 50


def write(folder: Path, step: int, size: int = SMALL) -> Path:
    path = folder / checkpoint_name(step)
    write_checkpoint(content(step, size), path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files_of(*steps: int) -> list[str]:
    return [checkpoint_name(step) for step in steps]


def test_names_sort_by_step_and_know_large_ones():
    assert checkpoint_name(123) == "step_00000123.ckpt"
    assert checkpoint_name(1234567890) == "step_1234567890.ckpt"
    with pytest.raises(ValueError, match="step = -1"):
        checkpoint_name(-1)


def test_content_comes_back_also_of_a_checkpoint_that_is_replaced(tmp_path):
    path = write(tmp_path, 1)
    assert_content(path, 1, SMALL)
    write_checkpoint(content(2, SMALL), path)
    assert_content(path, 2, SMALL)
    assert damage(path) is None
    assert names(tmp_path) == files_of(1)


# What can befall the bytes


@pytest.mark.parametrize(
    "count", [pytest.param(8, id="some"), pytest.param(100, id="many", marks=pytest.mark.exhaustive)]
)
def test_damage_of_a_real_checkpoint_is_recognised_or_changes_nothing(tmp_path, count):
    """Single flipped bits in tensors, headers and the index, and cuts; without any file beside it."""
    path, rng = tmp_path / checkpoint_name(6), random.Random(0)
    whole = (ROOT / "tests/fixtures/v01/v01/version_0/checkpoints" / path.name).read_bytes()
    path.write_bytes(whole)
    expected = fingerprint(torch.load(path, weights_only=True))
    with zipfile.ZipFile(path) as archive:
        headers, index = [record.header_offset for record in archive.infolist()], archive.start_dir
    for number in range(count):
        place = (rng.randrange(index), rng.choice(headers) + rng.randrange(64), rng.randrange(index, len(whole)))
        path.write_bytes(flipped(whole, place[number % 3], 1 << rng.randrange(8)))
        # what goes unnoticed stands where nothing is read: in dates, and between records
        assert damage(path) or fingerprint(torch.load(path, weights_only=True)) == expected, place[number % 3]
        length = (rng.randrange(len(whole)), len(whole) - rng.randrange(1, 100))[number % 2]
        path.write_bytes(whole[:length])
        assert "truncated" in damage(path), length


def test_every_bit_of_an_index_and_every_end(tmp_path):
    path = write(tmp_path, 1, 5)
    whole = path.read_bytes()
    noticed = 0
    for place in range(whole.index(b"PK\x01\x02"), len(whole)):
        path.write_bytes(flipped(whole, place))
        if damage(path) is None:
            assert_content(path, 1, 5)
        else:
            noticed += 1
    assert noticed
    # torch itself reads changed tensors without a word
    path.write_bytes(flipped(whole, whole.index(content(1, 5)["weights"][0].numpy().tobytes())))
    torch.load(path, weights_only=True)
    assert "damaged (in its record" in damage(path)
    for length in {*range(0, len(whole), 37), 1, 4, len(whole) - 1, len(whole) - 22, len(whole) - 23}:
        path.write_bytes(whole[:length])
        assert ("zero bytes" if length == 0 else "truncated") in damage(path), length
    path.write_bytes(whole + b"\0" * 100)
    assert_content(path, 1, 5)


def flipped(whole: bytes, place: int, bit: int = 0x10) -> bytes:
    return whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]


def test_checksum_files_of_version_0_1_are_passed_over_and_go_with_their_checkpoint(tmp_path):
    def add_checksum(path: Path) -> None:
        Path(f"{path}.sha256").write_text(f"{'0' * 64}  {path.name}\n")

    paths = [write(tmp_path, step) for step in (1, 2, 3)]
    link_last(paths[2])
    for path in (*paths, tmp_path / "last.ckpt"):
        add_checksum(path)
    assert damage(paths[2]) is None
    assert newest_usable(tmp_path) == (paths[2], [])
    keep_newest(tmp_path, 2)
    write(tmp_path, 2)
    link_last(paths[2])
    assert names(tmp_path) == sorted(["last.ckpt", f"{paths[2].name}.sha256", *files_of(2, 3)])


def test_what_is_not_there_or_no_file(tmp_path):
    assert damage(tmp_path / "x.ckpt") == "does not exist"
    assert damage(tmp_path) == "is a folder"
    (tmp_path / "last.ckpt").symlink_to("step_00000009.ckpt")
    assert damage(tmp_path / "last.ckpt") == "is a link to step_00000009.ckpt, which does not exist"
    (tmp_path / "loop.ckpt").symlink_to("loop.ckpt")
    assert "cannot be read (Too many levels" in damage(tmp_path / "loop.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    assert "not a file of tensors" in damage(tmp_path / "text.ckpt")


def test_a_link_is_checked_as_the_file_it_points_to(tmp_path):
    path = write(tmp_path, 1)
    link_last(path)
    assert damage(tmp_path / "last.ckpt") is None
    path.write_bytes(path.read_bytes()[:-1])
    assert "truncated" in damage(tmp_path / "last.ckpt")


def test_files_of_the_format_before_zip_are_read(tmp_path):
    path = tmp_path / "old.ckpt"
    torch.save(content(1, SMALL), path, _use_new_zipfile_serialization=False)
    assert damage(path) is None
    path.write_bytes(path.read_bytes()[:-20])
    assert damage(path) is not None


@pytest.mark.parametrize("kind", ["torch", "legacy torch", "pickle"])
def test_nothing_in_a_file_is_run(tmp_path, kind):
    path, marker = tmp_path / "step_00000001.ckpt", tmp_path / "was run"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": Hostile(marker)}))
    else:
        torch.save({"state_dict": Hostile(marker)}, path, _use_new_zipfile_serialization=kind == "torch")
    assert damage(path) is not None
    if kind == "torch":
        assert "posix.mkdir" in damage(path)
    assert newest_usable(tmp_path)[0] is None
    assert not marker.exists()
    torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(path.read_bytes())
    assert marker.exists(), "the file was not hostile"


# Finding and keeping


def test_the_largest_step_comes_first_and_other_files_do_not_count(tmp_path):
    for step in (3, 100_000_000, 99_999_999):
        write(tmp_path, step)
    link_last(tmp_path / checkpoint_name(3))
    (tmp_path / "step_00000099.ckpt").symlink_to(checkpoint_name(3))
    (tmp_path / "step_00000098.ckpt").mkdir()
    for name in ("best.ckpt", ".step_00000097.ckpt.12.0123abcd.tmp", "step_x.ckpt", "step_96.ckpt.bak", "step_٣.ckpt"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in checkpoints(tmp_path)] == [
        "step_100000000.ckpt",
        "step_99999999.ckpt",
        "step_00000003.ckpt",
    ]


def test_a_folder_that_is_not_there_holds_none_and_a_file_is_no_folder(tmp_path):
    assert checkpoints(tmp_path / "none") == []
    assert newest_usable(tmp_path / "none") == (None, [])
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file cannot be read \(Not a directory\): give the folder"):
        checkpoints(tmp_path / "file")


def test_damaged_newest_ones_are_passed_over_and_named(tmp_path):
    paths = [write(tmp_path, step) for step in (1, 2, 3)]
    paths[2].write_bytes(b"")
    paths[1].write_bytes(paths[1].read_bytes()[:-5])
    found, messages = newest_usable(tmp_path)
    assert found == paths[0]
    assert messages == [
        f"{paths[2]} is empty (zero bytes)",
        f"{paths[1]} is truncated, or damaged at its end",
    ]
    paths[0].write_bytes(b"x")
    found, messages = newest_usable(tmp_path)
    assert found is None
    assert len(messages) == 3


def test_the_newest_are_kept_and_nothing_else_is_touched(tmp_path):
    for step in (1, 2, 3, 4):
        write(tmp_path, step)
    others = ["best.ckpt", "best.ckpt.sha256", "step_00000001.ckpt.txt"]
    for name in others:
        (tmp_path / name).write_text("x")
    keep_newest(tmp_path, 2)
    assert names(tmp_path) == [*others, *files_of(3, 4)]
    with pytest.raises(ValueError, match="count = 0"):
        keep_newest(tmp_path, 0)


def test_the_newest_usable_one_is_never_removed(tmp_path):
    paths = [write(tmp_path, step) for step in (1, 2, 3, 4, 5)]
    for path in paths[3:]:
        path.write_bytes(b"")
    keep_newest(tmp_path, 1)
    assert names(tmp_path) == files_of(3, 5)
    keep_newest(tmp_path, 1, verified=paths[2])
    assert newest_usable(tmp_path)[0] == paths[2]


def test_a_file_that_cannot_be_removed_is_named(tmp_path, monkeypatch):
    for step in (1, 2):
        write(tmp_path, step)
    monkeypatch.setattr(Path, "unlink", failing(errno.EROFS, tmp_path / checkpoint_name(1)))
    with pytest.raises(CheckpointError, match=r"step_00000001\.ckpt cannot be removed .*make the folder writable"):
        keep_newest(tmp_path, 1)


def failing(code: int, name: object = None):
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), *([] if name is None else [str(name)]))

    return fail


def test_last_is_a_relative_link_that_survives_a_move_of_the_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (1, 2):
        link_last(write(folder, step))
    assert os.readlink(folder / "last.ckpt") == "step_00000002.ckpt"
    folder.rename(tmp_path / "moved")
    assert_content(tmp_path / "moved" / "last.ckpt", 2, SMALL)


@pytest.mark.parametrize("without", [["symlink"], ["symlink", "link"]], ids=["hard link", "copy"])
def test_without_symbolic_links_last_is_the_file_itself(tmp_path, monkeypatch, without):
    for name in without:
        monkeypatch.setattr(os, name, failing(errno.EPERM))
    for step in (1, 2, 2):
        link_last(write(tmp_path, step))
        link_last(tmp_path / checkpoint_name(step))
        assert not (tmp_path / "last.ckpt").is_symlink()
        assert_content(tmp_path / "last.ckpt", step, SMALL)
        assert damage(tmp_path / "last.ckpt") is None
    assert names(tmp_path) == ["last.ckpt", *files_of(1, 2)]


# Writers that are killed


@pytest.mark.slow
def test_sigkill_at_random_moments_never_costs_a_checkpoint(tmp_path):
    def save(step: int) -> None:
        path = tmp_path / checkpoint_name(start + step)
        write_checkpoint(content(start + step), path)
        link_last(path)
        keep_newest(tmp_path, 2)

    start, interrupted = 0, 0
    rng = random.Random(0)
    for _ in range(40):
        done = kill_at_random(save, tmp_path / "acknowledged", rng, 0.05)
        found, messages = newest_usable(tmp_path)
        assert messages == []
        newest = 0 if found is None else int(found.stem.removeprefix("step_"))
        assert newest in (start + done, start + done + 1)
        if found is not None:
            assert_content(found, newest)
        last = tmp_path / "last.ckpt"
        assert damage(last) is None if done else damage(last) is None or not os.path.lexists(last)
        temporary = list(tmp_path.glob(".*.tmp"))
        interrupted += bool(temporary)
        assert len(temporary) <= 2, "a killed writer's files were not removed by the next"
        start = newest
    assert interrupted >= 10, "hardly a kill came while a file was being written"


@pytest.mark.parametrize("existing", [False, True], ids=["new", "replaced"])
def test_killed_before_any_change_of_the_folder_it_is_usable(tmp_path, existing):
    def save() -> None:
        write_checkpoint(content(9, SMALL), folder / checkpoint_name(3))
        link_last(folder / checkpoint_name(3))
        keep_newest(folder, 1)

    before = tmp_path / "before"
    before.mkdir()
    for step in [3] if existing else [1, 2]:
        link_last(write(before, step))
    for number in range(1, 100):
        folder = tmp_path / str(number)
        shutil.copytree(before, folder, symlinks=True)
        killed = killed_before_change(save, number)
        found, messages = newest_usable(folder)
        assert found is not None, number
        assert messages == [], number
        step = torch.load(found, weights_only=True)["step"]
        assert step in (3 if existing else 2, 9)
        assert_content(found, step, SMALL)
        assert damage(folder / "last.ckpt") is None, number
        save()
        assert names(folder) == ["last.ckpt", *files_of(3)], number
        if not killed:
            break
    assert number > 8


def test_temporary_files_of_a_living_writer_stay_and_of_a_dead_one_go(tmp_path):
    ready = tmp_path / "ready"
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException), TemporaryFile(tmp_path / "step_00000001.ckpt") as file:
            file.write(b"half")
            ready.touch()
            time.sleep(60)
        os._exit(1)
    try:
        while not ready.exists():
            time.sleep(0.001)
        with TemporaryFile(tmp_path / "step_00000002.ckpt") as own:
            write(tmp_path, 3)
            assert own.path.exists()
            assert len(list(tmp_path.glob(".step_00000001.ckpt.*.tmp"))) == 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    ready.unlink()
    # not by this writer's pattern: somebody else's
    foreign = tmp_path / ".step_00000001.ckpt.swp.tmp"
    foreign.write_text("")
    write(tmp_path, 3)
    assert names(tmp_path) == [foreign.name, *files_of(3)]


def test_a_file_that_was_taken_for_left_over_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    taken = []

    def lock_too_late(file, _):
        if not taken:
            taken.append(Path(file.name))
            os.unlink(file.name)

    monkeypatch.setattr("fcntl.flock", lock_too_late)
    path = tmp_path / checkpoint_name(1)
    with TemporaryFile(path) as file:
        assert taken != [file.path]
        assert file.path.exists()


def test_without_locks_only_old_temporary_files_go(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", failing(errno.ENOSYS))
    young, old = (tmp_path / f".step_00000001.ckpt.{pid}.0123abcd.tmp" for pid in (1, 2))
    for path in (young, old):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    write(tmp_path, 3)
    assert names(tmp_path) == [young.name, *files_of(3)]


# Disks that do not take it


def refused(tmp_path: Path, match: str, step: int = 2, size: int = SMALL) -> str:
    """The message of a write that fails, after which the folder is as before."""
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=match) as caught:
        write(tmp_path, step, size)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("limit", [0, 1000, 100_000, 500_000])
def test_the_largest_file_size_allowed(tmp_path, limit):
    write(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        message = refused(
            tmp_path, re.escape(f"{tmp_path}: cannot write step_00000002.ckpt (File too large)"), 2, 50_000
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "older checkpoints there are untouched" in message
    assert "ulimit -f" in message
    assert "same command with --ckpt_path last" in message
    assert newest_usable(tmp_path)[0] == tmp_path / checkpoint_name(1)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here: that takes root in a machine or container of one's own")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk):
    path = write(small_disk, 1)
    for size in (70_000, 300_000):
        message = refused(small_disk, "No space left on device", 2, size)
        assert "make room, then run the same command with --ckpt_path last" in message
    # filled to the last byte: not even a link has room
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    refused(small_disk, "No space left on device")
    assert newest_usable(small_disk) == (path, [])
    (small_disk / "filler").unlink()
    write(small_disk, 2)


def test_a_read_only_file_system(small_disk):
    write(small_disk, 1)
    write(small_disk, 2)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused(small_disk, "Read-only file system.*make the folder writable", 3)
    with pytest.raises(CheckpointError, match=r"cannot write last.ckpt \(Read-only file system\)"):
        link_last(small_disk / checkpoint_name(1))
    with pytest.raises(CheckpointError, match=r"step_00000001.ckpt cannot be removed \(Read-only file system\)"):
        keep_newest(small_disk, 1)
    assert newest_usable(small_disk)[0] == small_disk / checkpoint_name(2)


def test_data_are_on_the_disk_before_they_get_their_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    calls = []

    def fsync(handle):
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")

    def replace(source, target):
        calls.append(Path(target).suffix)
        os.rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    for _ in ("new", "replaced"):
        write(tmp_path, 1)
    assert calls == ["file", ".ckpt", "folder"] * 2


def test_a_folder_that_is_gone_or_in_the_checkpoints_place(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone: cannot write step_00000001.ckpt .*put the folder back"):
        write(tmp_path / "gone", 1)
    (tmp_path / checkpoint_name(1)).mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write step_00000001.ckpt \(Is a directory\)"):
        write(tmp_path, 1)
    assert names(tmp_path) == files_of(1)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("step", [1, 2], ids=["replaced", "new"])
def test_errors_where_data_reach_the_disk(tmp_path, monkeypatch, call, step):
    path = write(tmp_path, 1)
    monkeypatch.setattr(os, call, failing(errno.EIO))
    with pytest.raises(CheckpointError, match=r"Input/output error.*mend that, then"):
        write(tmp_path, step)
    assert newest_usable(tmp_path) == (path, [])
    assert_content(path, 1, SMALL)
    assert not list(tmp_path.glob(".*"))


# States that could not be read again


class Setting:
    pass


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"hyper_parameters": Setting()}, r"Python object tests\.resume\.test_checkpoint_files\.Setting"),
        ({"hyper_parameters": {"root": Path("x")}}, "Python object pathlib"),
        ({"hyper_parameters": {"net": nn.Linear(1, 1)}}, r"Python object torch\.nn\.modules\.linear\.Linear"),
        ({"schedule": lambda step: step}, "cannot be saved.*<lambda>"),
        ({"file": (i for i in ())}, "cannot be saved.*generator"),
    ],
)
def test_a_state_that_could_not_be_read_again_is_refused_when_it_is_written(tmp_path, state, match):
    write(tmp_path, 1)
    with pytest.raises(CheckpointError, match=match):
        write_checkpoint({"state_dict": {}, **state}, tmp_path / checkpoint_name(2))
    assert names(tmp_path) == files_of(1)


def test_the_whole_file_is_never_in_memory(tmp_path, monkeypatch):
    blocks = []

    class Watched(TemporaryFile):
        def write(self, block):
            blocks.append(len(block))
            return super().write(block)

    monkeypatch.setattr(checkpoint_files, "TemporaryFile", Watched)
    path = write(tmp_path, 1, 100_000)
    assert max(blocks) == 400_000
    assert sum(blocks) == path.stat().st_size > 1_600_000
