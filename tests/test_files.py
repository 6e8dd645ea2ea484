"""Files that are whole or not there."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading

import pytest

from robustseg import files
from robustseg.files import TemporaryFile, create_text, write_json, write_text, write_whole


def test_json_is_written_into_folders_that_are_made_for_it(tmp_path):
    write_json({"a": {"b": None}}, tmp_path / "deep" / "out.json")
    assert (tmp_path / "deep" / "out.json").read_bytes() == b'{\n  "a": {\n    "b": null\n  }\n}\n'
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.json"]


def test_text_is_the_same_on_every_system_whatever_it_holds(tmp_path):
    write_text("ä\n\udc80\r\n", tmp_path / "out.md")
    assert (tmp_path / "out.md").read_bytes() == b"\xc3\xa4\n?\r\n"


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("fault", ["write", "os.replace", "os.fsync"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, durable, fault):
    path = tmp_path / "out.json"
    write_json({"a": 1}, path)
    with pytest.raises(ValueError, match="JSON"):
        write_json({"a": math.nan}, path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((TemporaryFile, "write") if fault == "write" else (os, fault[3:])), full)
    if fault == "os.fsync" and not durable:
        write_json({"a": 1}, path, durable=False)
    else:
        with pytest.raises(OSError, match="No space left"):
            write_json({"a": 2}, path, durable=durable)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]


def test_durable_files_are_on_the_disk_before_they_have_their_name(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replace"), replace(*names)))
    write_whole(b"x", tmp_path / "cache", durable=False)
    assert done == ["replace"]
    write_whole(b"x", tmp_path / "result")
    assert done == ["replace", "fsync", "replace", "fsync"]
    monkeypatch.setattr(files, "sync_folder", lambda folder: os.stat(folder / "none"))  # a file system that cannot
    write_whole(b"y", tmp_path / "result")
    assert (tmp_path / "result").read_bytes() == b"y"


def test_threads_of_one_process_do_not_meet(tmp_path):
    path = tmp_path / "out"
    threads = [threading.Thread(target=write_whole, args=(bytes([n]) * 200_000, path)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = path.read_bytes()
    assert content == content[:1] * 200_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_links_stay_and_devices_are_written_to(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_text("new", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    code = "from robustseg.files import write_text; write_text('text', '/dev/stdout')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"text"
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    write_text("text", tmp_path / "pipe")
    assert reader.communicate(timeout=30)[0] == b"text"


def test_what_killed_writers_left_is_removed(tmp_path):
    (tmp_path / ".out.html.123.0123abcd.tmp").write_text("half")
    with TemporaryFile(tmp_path / "alive") as alive:
        write_text("text", tmp_path / "out.html")
        assert {entry.name for entry in tmp_path.iterdir()} == {"out.html", alive.path.name}


def test_a_new_file_is_created_once(tmp_path):
    create_text("first", tmp_path / "one")
    with pytest.raises(FileExistsError):
        create_text("second", tmp_path / "one")
    assert (tmp_path / "one").read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]
