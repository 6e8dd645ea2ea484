"""Streams of records: nothing that can happen to their bytes is more than a lost end."""

from __future__ import annotations

import json
import os
import resource
import signal
import warnings
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from robustseg.evaluation import EvaluationError
from robustseg.evaluation.record import COLUMNS
from robustseg.evaluation.store import RECORDS, ImageRecord, RecordWriter, read_records, streams

ABOUT = {"protocol": "p", "attacks": {"pgd": {"eps": "8/255"}}, "versions": {"torch": "2"}}


def record(sample: str, attack: str = "pgd", classes: int = 3, seed: int = 0) -> ImageRecord:
    generator = torch.Generator().manual_seed(seed)
    confusion = torch.randint(0, 3, (classes, classes), generator=generator) * 2**40
    figures = torch.rand(len(COLUMNS), generator=generator, dtype=torch.float64)
    figures[4] = float("nan")
    return ImageRecord(sample, attack, confusion, figures, 2)


def write(folder: Path, batches: list[list[ImageRecord]], name: str = "records") -> list[int]:
    """A stream of these batches, and the length of the file after each of them."""
    lengths = []
    with RecordWriter(folder, name, ABOUT, 3) as writer:
        for batch in batches:
            writer.append(batch)
            *_, path = sorted((folder / RECORDS).glob(f"{name}-*.arrows"))
            lengths.append(path.stat().st_size)
    return lengths


def read(folder: Path) -> list[ImageRecord]:
    return [record for stream in streams(folder) for record in read_records(stream)]


def assert_same(found: list[ImageRecord], expected: list[ImageRecord]) -> None:
    assert [(r.sample, r.attack, r.batch_size) for r in found] == [(r.sample, r.attack, r.batch_size) for r in expected]
    for one, two in zip(found, expected, strict=True):
        assert one.confusion.dtype == torch.int64
        assert torch.equal(one.confusion, two.confusion)
        torch.testing.assert_close(one.figures, two.figures, rtol=0, atol=0, equal_nan=True)


BATCHES = [[record("a"), record("b/ü", seed=1)], [record("c", "clean", seed=2)], [record("d", seed=3)]]
ALL = [each for batch in BATCHES for each in batch]


def test_records_come_back_as_they_were(tmp_path):
    write(tmp_path, BATCHES)
    (stream,) = streams(tmp_path)
    assert stream.about == ABOUT | {"num_classes": 3}
    assert_same(read(tmp_path), ALL)


def test_what_is_appended_is_there_at_once_and_a_stream_only_grows(tmp_path):
    writer = RecordWriter(tmp_path, "records", ABOUT, 3)
    assert not (tmp_path / RECORDS).exists()
    writer.append([])
    assert not (tmp_path / RECORDS).exists()
    before = b""
    for count, batch in enumerate(BATCHES, 1):
        writer.append(batch)
        now = (tmp_path / RECORDS / "records-0.arrows").read_bytes()
        assert now.startswith(before)
        assert len(now) > len(before)
        assert_same(read(tmp_path), [each for part in BATCHES[:count] for each in part])
        before = now
    writer.close()
    assert (tmp_path / RECORDS / "records-0.arrows").read_bytes() == before


def test_each_writer_has_a_stream_of_its_own(tmp_path):
    for batch in BATCHES:
        write(tmp_path, [batch], f"shard{len(batch)}")
    assert [path.name for path in sorted((tmp_path / RECORDS).iterdir())] == [
        "shard1-0.arrows",
        "shard1-1.arrows",
        "shard2-0.arrows",
    ]
    assert {r.sample for r in read(tmp_path)} == {"a", "b/ü", "c", "d"}


def test_a_stream_cut_anywhere_holds_its_whole_batches(tmp_path):
    lengths = write(tmp_path, BATCHES)
    (path,) = (tmp_path / RECORDS).iterdir()
    whole = path.read_bytes()
    assert lengths[-1] == len(whole)
    sizes = [len(batch) for batch in BATCHES]
    # every byte of the last batch, and a sample of those before
    places = [*range(0, lengths[1] - 1, 31), *range(lengths[1] - 1, len(whole) + 1)]
    for end in places:
        path.write_bytes(whole[:end])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read(tmp_path)
        kept = sum(size for size, length in zip(sizes, lengths, strict=True) if length <= end)
        assert_same(found, ALL[:kept])


def test_a_torn_end_is_said(tmp_path):
    lengths = write(tmp_path, BATCHES)
    (path,) = (tmp_path / RECORDS).iterdir()
    path.write_bytes(path.read_bytes()[: lengths[1] + 40])
    with pytest.warns(UserWarning, match=r"records-0.arrows: the end is incomplete"):
        read(tmp_path)


def test_flipped_bits_never_make_another_record(tmp_path):
    write(tmp_path, BATCHES)
    (path,) = (tmp_path / RECORDS).iterdir()
    whole = path.read_bytes()
    expected = ALL
    lost, refused = 0, []
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(bytes(damaged))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = read(tmp_path)
            except EvaluationError as error:
                # the name of our entry in the header is gone: a foreign file
                refused.append(str(error))
                continue
        assert_same(found, expected[: len(found)])
        lost += len(found) < len(expected)
    assert all("records-0.arrows" in message for message in refused)
    # Arrow pads with zeros that mean nothing; the rest is noticed
    assert lost > len(whole) / 3 / 4


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"\xff" * 8, b"\xff\xff\xff\xff\x10\0\0\0" + b"\7" * 16, b"x" * 5000]
)
def test_a_file_of_garbage_is_no_record_and_no_end(tmp_path, content):
    write(tmp_path, BATCHES)
    (tmp_path / RECORDS / "other-0.arrows").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(read(tmp_path), ALL)


def test_a_damaged_beginning_is_said_and_left_out(tmp_path):
    write(tmp_path, BATCHES)
    (path,) = (tmp_path / RECORDS).iterdir()
    # another protocol, but the checksum of the beginning stays
    path.write_bytes(path.read_bytes().replace(b'"protocol": "p"', b'"protocol": "q"'))
    with pytest.warns(UserWarning, match="beginning is damaged"):
        assert streams(tmp_path) == []


def test_foreign_streams_are_refused_by_name(tmp_path):
    (tmp_path / RECORDS).mkdir()
    schema = pa.schema([("x", pa.int32())])
    with pa.OSFile(str(tmp_path / RECORDS / "foreign.arrows"), "wb") as file, pa.ipc.new_stream(file, schema):
        pass
    with pytest.raises(EvaluationError, match=r"foreign.arrows: not a stream of robustseg's records: move it"):
        streams(tmp_path)


def test_other_files_are_none_of_our_business(tmp_path):
    write(tmp_path, BATCHES)
    (tmp_path / RECORDS / "notes.txt").write_text("x")
    (tmp_path / RECORDS / "more").mkdir()
    assert_same(read(tmp_path), ALL)


def test_settings_that_are_no_json_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        RecordWriter(tmp_path, "records", {"protocol": float("nan")}, 3)
    assert not any(tmp_path.iterdir())


def in_a_child_with_room(room: int, folder: Path) -> str:
    """What a process gets that may write ``room`` bytes to a file: it appends until that is refused, then once more."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            writer, said = RecordWriter(folder, "records", ABOUT, 3), "never refused"
            for number in range(1000):
                try:
                    writer.append([record(f"s{number}", seed=number)])
                except EvaluationError as error:
                    said = json.dumps([number, str(error)])
                    writer.append([record(f"s{number}", seed=number)])
                    break
            os.write(sender, said.encode())
        except BaseException as error:
            os.write(sender, repr(error).encode())
        finally:
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize("room", [5000, 5001, 8191, 8192])
def test_a_full_disk_costs_the_batch_that_did_not_fit_and_nothing_else(tmp_path, room):
    number, said = json.loads(in_a_child_with_room(room, tmp_path))
    assert number > 2
    assert "records-0.arrows: cannot write (File too large)" in said
    assert "raise the largest file size allowed (ulimit -f) and run the same command again" in said
    first, second = sorted((tmp_path / RECORDS).iterdir())
    assert first.stat().st_size <= room
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # the half of a batch was taken back: there is no torn end
        found = read(tmp_path)
    # the batch that was refused is the first of the second stream
    assert_same(found, [record(f"s{k}", seed=k) for k in range(number + 1)])
    assert second.name == "records-1.arrows"


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(EvaluationError, match=r"cannot write .*a part of its path is a file, so name"):
        RecordWriter(tmp_path / "file", "records", ABOUT, 3).append(BATCHES[0])
