"""Results on rough file systems: no hard links, renaming across devices, full, read-only; and devices and links."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from robustseg.evaluation.errors import EvaluationError
from robustseg.evaluation.protocol import claim, read
from robustseg.files import TemporaryFile, create_text, not_writable, write_text, write_whole
from robustseg.writing import rough


def refusing(monkeypatch, name: str, code: int) -> None:
    """Let a function of os fail with an error of the system."""

    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, name, fail)


class TestWithoutHardLinks:
    """File systems that refuse hard links, in each of the ways that they do."""

    @pytest.mark.parametrize("code", ["EPERM", "ENOTSUP", "EMLINK", "ENOSYS", "EXDEV", "EACCES"])
    def test_a_file_is_created_once(self, tmp_path, monkeypatch, code):
        refusing(monkeypatch, "link", getattr(errno, code))
        create_text("first", tmp_path / "one")
        with pytest.raises(FileExistsError):
            create_text("second", tmp_path / "one")
        assert (tmp_path / "one").read_text() == "first"
        assert [entry.name for entry in tmp_path.iterdir()] == ["one"]

    def test_an_evaluation_claims_its_folder(self, tmp_path, monkeypatch):
        refusing(monkeypatch, "link", errno.EPERM)
        claim(tmp_path / "out", {"seed": 0})
        claim(tmp_path / "out", {"seed": 0})
        with pytest.raises(EvaluationError, match="holds an evaluation of something else"):
            claim(tmp_path / "out", {"seed": 1})
        assert read(tmp_path / "out")["seed"] == 0

    def test_of_many_that_try_at_once_one_succeeds(self, tmp_path, monkeypatch):
        refusing(monkeypatch, "link", errno.ENOTSUP)
        done: list[str] = []

        def attempt(number: int) -> None:
            try:
                create_text(f"text {number}", tmp_path / "one")
                done.append(f"text {number}")
            except FileExistsError:
                assert (tmp_path / "one").read_text()

        threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done == [(tmp_path / "one").read_text()]

    def test_what_a_killed_writer_left_empty_is_replaced(self, tmp_path, monkeypatch):
        refusing(monkeypatch, "link", errno.EPERM)
        monkeypatch.setattr(rough, "_PATIENCE", 0.1)
        (tmp_path / "protocol.json").touch()
        claim(tmp_path, {"seed": 0})
        assert read(tmp_path)["seed"] == 0

    def test_another_error_is_one(self, tmp_path, monkeypatch):
        refusing(monkeypatch, "link", errno.ENOSPC)
        with pytest.raises(OSError, match="No space left"):
            create_text("first", tmp_path / "one")
        assert list(tmp_path.iterdir()) == []


class TestWithoutRename:
    """Folders of several file systems, and files that are mount points themselves."""

    @pytest.mark.parametrize("code", ["EXDEV", "EBUSY"])
    @pytest.mark.parametrize("before", [None, "old"])
    def test_the_file_is_overwritten(self, tmp_path, monkeypatch, code, before):
        path = tmp_path / "out"
        if before:
            path.write_text(before)
        refusing(monkeypatch, "replace", getattr(errno, code))
        write_text("new", path)
        assert path.read_text() == "new"
        assert [entry.name for entry in tmp_path.iterdir()] == ["out"]

    @pytest.mark.parametrize("before", [None, "old"])
    def test_a_failure_puts_back_what_was_there(self, tmp_path, monkeypatch, before):
        path = tmp_path / "out"
        if before:
            path.write_text(before)
        refusing(monkeypatch, "replace", errno.EXDEV)
        overwrite, calls = rough._overwrite, []

        def full(source, target):
            calls.append(target)
            if len(calls) == 1:
                target.write_text("ha")
                raise OSError(errno.ENOSPC, "No space left on device")
            overwrite(source, target)

        monkeypatch.setattr(rough, "_overwrite", full)
        with pytest.raises(OSError, match="No space left"):
            write_text("new", path)
        assert (path.read_text() if path.exists() else None) == before
        assert [entry.name for entry in tmp_path.iterdir()] == (["out"] if before else [])


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_is_no_error(tmp_path, monkeypatch, code):
    refusing(monkeypatch, "fsync", code)
    write_text("text", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "text"


def test_a_name_as_long_as_they_may_be(tmp_path):
    for name in ("x" * 255, "é" * 127):
        write_text("text", tmp_path / name)
        (tmp_path / f".{'x' * 100}.123.0123abcd.tmp").write_text("half")
        write_text("text", tmp_path / name)
        assert [entry.name for entry in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


class TestDirect:
    """Devices, pipes and files of the process are written to, and stay what they are."""

    @pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link", "link to link"])
    def test_standard_output_that_is_a_file_keeps_its_lines(self, tmp_path, path):
        (tmp_path / "link").symlink_to("/dev/stdout")
        (tmp_path / "link to link").symlink_to("link")
        code = f"from robustseg.files import write_text; print('before', flush=True); write_text('text', {path!r})"
        with (tmp_path / "out").open("wb") as out:
            subprocess.run([sys.executable, "-c", code], stdout=out, cwd=tmp_path, check=True)
        assert (tmp_path / "out").read_text() == "before\ntext"
        assert (tmp_path / "link").is_symlink()

    def test_a_device_that_is_full(self):
        with pytest.raises(OSError, match="No space left") as caught:
            write_whole(b"text", "/dev/full")
        assert not_writable("/dev/full", caught.value).endswith("(No space left on device): make room")
        write_whole(b"text", "/dev/null")

    def test_a_pipe_without_a_reader_is_an_error(self, tmp_path, monkeypatch):
        monkeypatch.setattr(rough, "_PATIENCE", 0.1)
        os.mkfifo(tmp_path / "pipe")
        start = time.monotonic()
        with pytest.raises(OSError, match="No such device") as caught:
            write_text("text", tmp_path / "pipe")
        assert time.monotonic() - start < 5
        assert not_writable(tmp_path / "pipe", caught.value).endswith("start what reads this pipe first")

    def test_a_regular_file_below_dev_is_written_whole(self, tmp_path, monkeypatch):
        path = f"/dev/shm/robustseg-test-{os.getpid()}"
        try:
            write_text("old", path)
            monkeypatch.setattr(TemporaryFile, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
            with pytest.raises(OSError, match="full"):
                write_text("new", path)
            assert Path(path).read_text() == "old"
        finally:
            os.unlink(path)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match="directory") as caught:
        write_text("text", tmp_path / "out")
    assert "it is a folder, so name a file in it" in not_writable(tmp_path / "out", caught.value)


@pytest.fixture
def small(tmp_path):
    """A file system of one megabyte."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "x", tmp_path], check=False).returncode:
        pytest.skip("this user may mount nothing")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.slow
def test_a_small_and_then_read_only_file_system(small):
    write_text("old", small / "out")
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(bytes(2**21), small / "out")
    assert not_writable(small / "out", caught.value).endswith("make room")
    assert [entry.name for entry in small.iterdir()] == ["out"]
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with pytest.raises(OSError, match="Read-only") as caught:
        write_text("new", small / "out")
    assert not_writable(small / "out", caught.value).endswith("make the folder writable")
    assert (small / "out").read_text() == "old"


@pytest.mark.parametrize(
    ("place", "said"), [("/", "it is a folder"), ("folder", "it is a folder"), ("file/x", "file, so")]
)
def test_places_that_are_no_file(tmp_path, place, said):
    """A root folder has no name, from which that of the temporary file would be made."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"directory|File exists") as caught:
        write_whole(b"x", tmp_path / place)
    assert said in not_writable(place, caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]
