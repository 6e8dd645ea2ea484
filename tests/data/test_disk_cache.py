"""Samples on disk are those of the files, whoever writes, reads, kills or damages what."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import time
import warnings
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from robustseg.data import CamVid, DataError, PairedFiles, SyntheticScenes, collate, disk_cache
from robustseg.data.disk_cache import DiskCache
from robustseg.data.loading import end_workers
from robustseg.data.order import Fetch
from robustseg.resume.continuation import deciding_settings

from .conftest import pattern, write_image

SIZES = (None, (24, 32), (12, 20), (40, 36))
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path):
    """A cache beside the data of ``root``, not made yet."""
    return tmp_path / "cached" / "samples"


def module(root, folder=None, **changes):
    common = {"image_size": (12, 20), "crop_size": (8, 8), "num_workers": 0, "batch_size": 2}
    return CamVid(str(root), **{**common, "disk_cache": folder and str(folder), **changes})


def opened(root, folder=None, split="train", **changes):
    return module(root, folder, **changes).dataset(split)


def everything(dataset):
    return [dataset.arrays(index) for index in range(len(dataset))]


def equal(first, second):
    return len(first) == len(second) and all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for pair, other in zip(first, second, strict=True)
        for a, b in zip(pair, other, strict=True)
    )


def entries(folder):
    return sorted(folder.rglob("*.sample"))


def unfinished(folder):
    return list(folder.glob("*/unfinished/*"))


@pytest.fixture
def reads(monkeypatch):
    """How often each sample was read from its files."""
    counts, read = Counter(), PairedFiles.read

    def counted(self, index):
        counts[self.sample_id(index)] += 1
        return read(self, index)

    monkeypatch.setattr(PairedFiles, "read", counted)
    return counts


def test_samples_are_those_of_the_files(root, folder, monkeypatch):
    for size in (*SIZES, *SIZES):  # written, then read by another object; one size is not another
        expected = everything(opened(root, image_size=size))
        dataset = opened(root, folder, image_size=size)
        found = everything(dataset)
        assert equal(found, expected)
        assert not any(array.flags.writeable for pair in found for array in pair)
        for index in range(5):
            plain, cached = opened(root, image_size=size)[Fetch(index, 7)], dataset[Fetch(index, 7)]
            assert torch.equal(plain.image, cached.image)
            assert torch.equal(plain.target, cached.target)
            assert plain.id == cached.id
    assert len(entries(folder)) == 5 * len(SIZES)
    assert not unfinished(folder)
    monkeypatch.setattr(CamVid, "void_ids", (11, 3))  # one class mapping is not another
    assert equal(everything(opened(root, folder)), everything(opened(root)))
    assert (everything(opened(root, folder))[0][1] != 3).all()


def test_files_are_decoded_once(root, folder, reads):
    for _ in range(3):
        everything(opened(root, folder, check="none"))
    assert set(reads.values()) == {1}
    assert len(reads) == 5
    everything(opened(root, folder, "val", check="none"))
    assert len(entries(folder)) == len(reads) == 8


def test_facts_about_a_split_are_the_same(root, folder):
    plain = module(root)
    for _ in range(2):
        cached = module(root, folder)
        for split in ("train", "val"):
            assert cached.digest(split) == plain.digest(split)
            assert cached.class_pixels(split) == plain.class_pixels(split)


def test_memory_comes_first(root, folder, reads):
    dataset = opened(root, folder, cache=True, check="none")
    first = everything(dataset)
    shutil.rmtree(folder)
    for pair, again in zip(first, everything(dataset), strict=True):
        assert pair[0] is again[0]
        assert pair[1] is again[1]
    assert set(reads.values()) == {1}
    assert not folder.exists()
    everything(opened(root, folder, check="none"))
    from_disk = opened(root, folder, cache=True, check="none")
    assert equal(everything(from_disk), first)
    assert from_disk.arrays(0)[0] is from_disk.arrays(0)[0]
    assert set(reads.values()) == {2}


def test_other_versions_make_other_entries(root, folder, monkeypatch, reads):
    everything(opened(root, folder, check="none"))
    before = {path: path.read_bytes() for path in entries(folder)}
    for count, (name, value) in enumerate(
        [
            ("robustseg.__version__", "99"),
            ("robustseg.data.disk_cache.version", lambda name: "99"),  # of a decoder
            ("robustseg.data.disk_cache.FORMAT", 0),
        ]
    ):
        with monkeypatch.context() as patched:
            patched.setattr(name, value)
            everything(opened(root, folder, check="none"))
        assert set(reads.values()) == {count + 2}
    assert len(entries(folder)) == 20
    assert all(path.read_bytes() == content for path, content in before.items())


def rewrite(path, value, nanoseconds, **options):
    """Another picture at the same place with a time of modification; its size in bytes."""
    Image.new("RGB", (32, 24), (value, 0, 0)).save(path, **{"compress_level": 0, **options})
    os.utime(path, ns=(0, nanoseconds))
    return path.stat().st_size


def test_changed_files_are_read_again(root, folder):
    path, other = root / "train" / "a.png", root / "train" / "other.png"

    def value():
        return opened(root, folder).arrays(0)[0][0, 0, 0]

    before = rewrite(path, 1, 10**18)
    assert value() == 1
    assert rewrite(path, 2, 10**18 + 1) == before  # only the time tells
    assert value() == 2
    assert rewrite(path, 3, 10**18 + 1) == before  # same size and time, as rsync and tar leave them
    assert value() == 3
    assert rewrite(other, 4, 10**18 + 1) == before
    os.replace(other, path)  # as well, and another file
    assert value() == 4
    assert rewrite(path, 5, 10**18 + 1, compress_level=9) != before
    assert value() == 5
    write_image(root / "trainannot" / "b.png", np.full((24, 32), 4, np.uint8))
    assert (opened(root, folder).arrays(1)[1] == 4).all()


def test_each_fact_of_a_file_makes_another_fingerprint(root, monkeypatch):
    path = root / "train" / "a.png"
    status = os.stat(path)
    facts = {name: getattr(status, name) for name in ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")}
    before = disk_cache.file_fingerprint(path)
    for changes in ({}, *({name: value + 1} for name, value in facts.items())):
        seen = SimpleNamespace(**{**facts, **changes})
        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", lambda path, seen=seen, **options: seen)
            after = disk_cache.file_fingerprint(path)
        assert (after == before) == (not changes)


def test_a_folder_in_the_place_of_an_entry_costs_that_entry_only(root, folder, reads):
    expected = everything(opened(root, folder, check="none"))
    taken, *others = entries(folder)
    for path in (taken, *others):
        path.unlink()
    taken.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal(everything(opened(root, folder, check="none")), expected)
        assert equal(everything(opened(root, folder, check="none")), expected)
    assert sorted(reads.values()) == [2, 2, 2, 2, 3]
    assert [path for path in entries(folder) if path.is_file()] == others
    assert not unfinished(folder)


def test_files_of_the_same_name_elsewhere_are_others(root, folder, tmp_path, monkeypatch):
    """Also by a relative path."""
    for number in (1, 2):
        other = tmp_path / f"copy{number}"
        for name in ("train", "trainannot", "val", "valannot"):
            shutil.copytree(root / name, other / "camvid" / name)
        rewrite(other / "camvid" / "train" / "a.png", number, 10**18)
        monkeypatch.chdir(other)
        assert (opened("camvid", folder).arrays(0)[0][..., 0] == number).all()


def test_a_file_that_changes_while_it_is_read_is_not_kept(root, folder, monkeypatch):
    dataset = opened(root, folder)
    path = root / "train" / "a.png"
    read = type(dataset).read

    def overtaken(self, index):
        rewrite(path, 9, 10**18)
        return read(self, index)

    before = path.read_bytes(), path.stat().st_mtime_ns
    with monkeypatch.context() as patched:
        patched.setattr(type(dataset), "read", overtaken)
        assert (dataset.arrays(0)[0][..., 0] == 9).all()
    assert not entries(folder)
    path.write_bytes(before[0])
    os.utime(path, ns=(0, before[1]))
    assert np.array_equal(dataset.arrays(0)[0], opened(root).arrays(0)[0])


def _with_shape(content, height, width):
    return content[:40] + np.array([height, width], np.uint32).tobytes() + content[48:]


DAMAGE = {
    "truncated": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "empty": lambda content: b"",
    "header only": lambda content: content[:64],
    "half a header": lambda content: content[:20],
    "flipped pixel": lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
    "flipped id": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "zeros": lambda content: bytes(len(content)),
    "other shape": lambda content: _with_shape(content, 20, 12),
    "huge shape": lambda content: _with_shape(content, 2**32 - 1, 2**32 - 1),
    "other magic": lambda content: b"RSSAMPL2" + content[8:],
}


def test_a_damaged_entry_is_read_from_the_files_and_replaced(root, folder, reads):
    expected = everything(opened(root, folder, check="none"))
    sound = {path: path.read_bytes() for path in entries(folder)}
    other = dict(zip(sound, [*list(sound.values())[1:], next(iter(sound.values()))], strict=True))
    for name, damage in {**DAMAGE, "that of another sample": None}.items():
        reads.clear()
        for path, content in sound.items():
            path.write_bytes(other[path] if damage is None else damage(content))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert equal(everything(opened(root, folder, check="none")), expected), name
        assert set(reads.values()) == {1}, name
        assert {path: path.read_bytes() for path in entries(folder)} == sound, name


def test_without_a_source_nothing_is_served(root, folder):
    dataset = opened(root, folder, check="none")
    everything(dataset)
    (root / "trainannot" / "a.png").unlink()
    with pytest.raises(DataError, match=r"trainannot/a\.png cannot be opened"):
        dataset.arrays(0)


def test_bad_samples_are_replaced_and_not_kept(root, folder):
    (root / "train" / "c.JPG").write_bytes(b"nonsense")
    with pytest.warns(UserWarning, match="another sample takes its place"):
        expected = opened(root, check="none", on_bad_sample="replace")[Fetch(2, 5)]
    for _ in range(2):
        cached = opened(root, folder, check="none", on_bad_sample="replace")
        with pytest.warns(UserWarning, match="another sample takes its place"):
            found = cached[Fetch(2, 5)]
        assert found.id == expected.id != "c"
        assert torch.equal(found.image, expected.image)
    assert len(entries(folder)) == 1


def test_an_unusable_folder_is_an_error_at_the_start(root, tmp_path):
    (tmp_path / "taken").write_text("mine")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "x", "/dev/null"):
        with pytest.raises(DataError) as error:
            opened(root, folder)
        assert str(error.value).startswith(f"data.disk_cache = '{folder}' cannot be used (")
        assert "\n" not in str(error.value)
    assert (tmp_path / "taken").read_text() == "mine"
    for name in ("", "  "):
        with pytest.raises(ValueError, match=r"disk_cache = .* set data\.disk_cache"):
            module(root, disk_cache=name)


def limited(bytes_per_file, action, *arguments):
    """Run in a forked process that cannot write more than that to a file; its exit status."""

    def run():
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_per_file, bytes_per_file))
        action(*arguments)

    process = FORK.Process(target=run)
    process.start()
    process.join(60)
    return process.exitcode


def _fills_with_one_warning(root, folder):
    expected = everything(opened(root))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = opened(root, folder)
        assert equal(everything(dataset), expected)
        assert equal(everything(dataset), expected)
    (message,) = [str(warning.message) for warning in caught]
    assert "data.disk_cache = " in message
    assert "File too large" in message
    assert "nothing is added any more" in message
    assert not entries(folder)
    assert not unfinished(folder)


def test_a_full_disk_ends_writing_with_one_warning(root, folder):
    """Real failures of real writes, in the middle of the pixels."""
    assert limited(500, _fills_with_one_warning, root, folder) == 0


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_a_read_only_folder_is_read(root, folder, monkeypatch, reads, when):
    expected = everything(opened(root, check="none"))
    opened(root, folder, check="none").arrays(0)
    refuse = monkeypatch.context()
    with refuse as patched, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = opened(root, folder, check="none") if when == "later" else None

        def read_only(*arguments, **options):
            raise OSError(30, "Read-only file system")

        patched.setattr(os, "replace", read_only)
        if dataset is None:
            patched.setattr("pathlib.Path.mkdir", read_only)
            dataset = opened(root, folder, check="none")
        reads.clear()
        assert equal(everything(dataset), expected)
        assert equal(everything(dataset), expected)
    assert reads["a"] == 0
    assert reads["b"] == 2
    (message,) = [str(warning.message) for warning in caught]
    assert "Read-only file system" in message
    assert len(entries(folder)) == 1


def test_workers_of_a_process_stop_and_warn_together(root, folder):
    """Through the DataLoader; what a worker warns of goes to its standard error."""
    data = module(root, folder, num_workers=2, augment=False)
    dataset = data.dataset("train")
    shutil.rmtree(folder)
    folder.write_text("in the way")
    assert not dataset.disk_cache._stopped
    assert sum(len(batch.ids) for batch in data.train_loader()) == 4
    end_workers()
    assert dataset.disk_cache._stopped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        everything(dataset)


def test_a_folder_deleted_during_the_run_is_made_again(root, folder):
    dataset = opened(root, folder)
    expected = everything(dataset)
    shutil.rmtree(folder)
    assert equal(everything(dataset), expected)
    assert len(entries(folder)) == 5


def test_what_can_be_kept(folder):
    cache = DiskCache(folder)
    image, mask = pattern(0)
    cache.store(cache.key("x"), np.asfortranarray(image)[:, ::-1], mask.T.copy().T)  # in any order of memory
    found = cache.load(cache.key("x"))
    assert np.array_equal(found[0], image[:, ::-1])
    assert np.array_equal(found[1], mask)
    with pytest.warns(UserWarning, match="not 24×32×3 uint8 with 24×32 int64"):
        cache.store(cache.key("y"), image, mask.astype(np.int64))
    cache.store(cache.key("y"), image, mask)  # it has stopped
    assert len(entries(folder)) == 1


def test_what_is_drawn_is_not_kept_and_that_is_said(folder):
    with pytest.warns(UserWarning, match=r"data\.disk_cache = .* has no effect: SceneDataset does not say"):
        dataset = SyntheticScenes(image_size=(32, 32), val_length=2, disk_cache=str(folder)).dataset("val")
    expected = SyntheticScenes(image_size=(32, 32), val_length=2).dataset("val")
    assert equal(everything(dataset), everything(expected))
    assert not entries(folder)


def _killed_by_the_size(root, folder):
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    everything(opened(root, folder))


def _killed_before_renaming(root, folder):
    os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
    everything(opened(root, folder))


@pytest.mark.parametrize(
    ("action", "status"), [(_killed_by_the_size, -signal.SIGXFSZ), (_killed_before_renaming, -signal.SIGKILL)]
)
def test_a_process_killed_in_the_middle_of_a_write(root, folder, action, status):
    expected = everything(opened(root))
    assert limited(500 if status == -signal.SIGXFSZ else 10**9, action, root, folder) == status
    (left,) = unfinished(folder)
    assert not entries(folder)
    assert 0 < left.stat().st_size <= (500 if status == -signal.SIGXFSZ else 10**9)
    assert equal(everything(opened(root, folder)), expected)
    assert not left.exists()  # its writer is gone
    assert len(entries(folder)) == 5


def _fill_for_ever(root, folder, started):
    started.set()
    while True:
        everything(opened(root, folder, check="none"))
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_kills_at_any_moment(root, folder):
    expected = everything(opened(root))
    for attempt in range(12):
        started = FORK.Event()
        process = FORK.Process(target=_fill_for_ever, args=(root, folder, started))
        process.start()
        started.wait(30)
        time.sleep(0.002 * attempt)
        process.kill()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
        for path in entries(folder):  # whole or not there
            assert path.stat().st_size == 64 + 4 * 12 * 20
        assert equal(everything(opened(root, folder)), expected)


def _fill(root, folder, barrier, seed, result):
    barrier.wait(30)
    dataset = opened(root, folder, check="none")
    found = [[array.copy() for array in dataset.arrays(index)] for index in np.random.default_rng(seed).permutation(5)]
    result.put((seed, found))


def test_processes_fill_one_folder_at_once(root, folder):
    expected = everything(opened(root))
    barrier, result = FORK.Barrier(4), FORK.Queue()
    processes = [FORK.Process(target=_fill, args=(root, folder, barrier, seed, result)) for seed in range(4)]
    for process in processes:
        process.start()
    for seed, found in (result.get(timeout=60) for _ in processes):
        assert equal(found, [expected[index] for index in np.random.default_rng(seed).permutation(5)])
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert len(entries(folder)) == 5
    assert not unfinished(folder)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_deliver_the_same(root, folder, method):
    expected = [opened(root, split="train", augment=False)[index] for index in range(5)]
    dataset = opened(root, folder, augment=False)
    options = {"num_workers": 2, "multiprocessing_context": method, "persistent_workers": True}
    loader = DataLoader(dataset, 1, collate_fn=collate, **options)
    for _ in range(2):
        for batch, sample in zip(loader, expected, strict=True):
            assert batch.ids == [sample.id]
            assert torch.equal(batch.images[0], sample.image)
            assert torch.equal(batch.targets[0], sample.target)
    assert len(entries(folder)) == 5
    received = pickle.loads(pickle.dumps(dataset))  # what a spawned worker gets
    assert equal(everything(received), everything(dataset))
    assert received.disk_cache.folder == dataset.disk_cache.folder


def test_resuming_does_not_ask_for_the_same_folder(folder):
    data = {"class_path": "CamVid", "init_args": {"image_size": [12, 20], "disk_cache": str(folder)}}
    assert deciding_settings({"data": data})["data"]["init_args"] == {"image_size": [12, 20]}


def test_permissions_are_those_that_the_user_gives(root, folder):
    """Others may read what the umask lets them read: a folder can be shared."""
    before = os.umask(0o022)
    try:
        everything(opened(root, folder))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in entries(folder)} == {0o644}


def test_real_pictures(camvid_root, folder):
    plain = CamVid(str(camvid_root), image_size=(180, 240), check="none").dataset("val")
    cached = CamVid(str(camvid_root), image_size=(180, 240), check="none", disk_cache=str(folder)).dataset("val")
    for _ in range(2):
        for index in range(0, len(plain), 20):
            assert equal([plain.arrays(index)], [cached.arrays(index)])
    with Image.open(plain.pairs[0].image) as picture:
        assert picture.size == (480, 360)
