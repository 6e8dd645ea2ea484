"""A training sample that cannot be read in the middle of a run."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import warnings

import pytest

from robustseg.data import CamVid, DataError, SyntheticScenes
from robustseg.data.bad_samples import BadSamples
from robustseg.data.loading import end_workers
from robustseg.data.order import Fetch, SampleOrder, derived_seed

from .trees import camvid_tree

LENGTH = 400


def reader(*bad, error=DataError):
    def read(index):
        if index in bad:
            raise error(f"s{index}.png cannot be decoded.")
        return f"content of {index}"

    return read


def samples(policy="replace", length=LENGTH):
    return BadSamples(policy, length, lambda index: f"s{index}")


def test_stop_names_file_sample_and_how_to_go_on():
    assert samples("stop").read(Fetch(5, 1), reader(3)) == (5, "content of 5")
    with pytest.raises(DataError, match=r"training sample s3: s3.png cannot be decoded; .*--ckpt_path last.*replace"):
        samples("stop").read(Fetch(3, 1), reader(3))
    with pytest.raises(ValueError, match=r"on_bad_sample = 'skip': set data.on_bad_sample to stop or replace"):
        samples("skip")


@pytest.mark.parametrize("error", [DataError, OSError])
def test_the_one_in_its_place_is_a_function_of_the_fetch(error):
    with pytest.warns(
        UserWarning, match="training sample s3: s3.png cannot be decoded; another sample takes its place"
    ):
        index, content = samples().read(Fetch(3, 77), reader(3, error=error))
    assert index == derived_seed(77, "replacement", 3, 0) % LENGTH != 3
    assert content == f"content of {index}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # whatever the process met before
        process = samples()
        process.read(Fetch(9, 5), reader(9))
        assert process.read(Fetch(3, 77), reader(3, 9)) == (index, content)
        # another epoch, another seed
        assert len({samples().read(Fetch(3, seed), reader(3))[0] for seed in range(20)}) > 15
        # the next candidate where the first is bad as well
        second = derived_seed(77, "replacement", 3, 1) % LENGTH
        assert samples().read(Fetch(3, 77), reader(3, index))[0] == second


def test_each_is_warned_of_once():
    process = samples()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(5):
            process.read(Fetch(3, seed), reader(3))
    assert len(caught) == 1


@pytest.mark.parametrize(("length", "most"), [(50, 1), (400, 4), (100_000, 10)])
def test_too_many_stop(length, most):
    process = samples(length=length)
    assert process.most == most
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bad = set()
        for index in range(most):
            bad.add(index)
            process.read(Fetch(index, length), reader(*bad))
        bad.add(most)
        with pytest.raises(DataError, match=rf"number {most + 1} of {length}.*repair the files.*--ckpt_path last"):
            process.read(Fetch(most, length), reader(*bad))
        with pytest.raises(DataError, match=r"repair the files|could be read"):
            samples().read(Fetch(0, 1), reader(*range(LENGTH)))


@pytest.fixture
def root(tmp_path):
    """Four CamVid samples per split."""
    names = {split: [f"{split}{index}" for index in range(4)] for split in ("train", "val", "test")}
    camvid_tree(tmp_path, names, (16, 24))
    return tmp_path


def module(root, workers, **changes):
    data = CamVid(str(root), batch_size=2, num_workers=workers, image_size=(16, 24), **changes)
    for split in ("train", "val", "test"):
        data.dataset(split)
    return data


def damage(root, name):
    path = next(root.glob(f"*/{name}.png"))
    path.write_bytes(path.read_bytes()[:40])


def seen(data):
    return [list(batch.ids) for batch in data.train_loader()]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stops_or_goes_on_the_same_with_any_number_of_workers(root, workers):
    stops, goes_on = module(root, workers), module(root, workers, on_bad_sample="replace")
    whole = seen(goes_on)
    damage(root, "train2")
    with pytest.raises(DataError) as caught:
        seen(stops)
    end_workers()  # else the collector waits 5 s for each
    # also from a worker process one line
    assert str(caught.value).startswith("training sample train2: ")
    assert "train2.png" in str(caught.value)
    assert "\n" not in str(caught.value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids = seen(goes_on)
        order = SampleOrder(goes_on.dataset("train"), 2)
        fetch = next(fetch for fetch in order if fetch.sample == 2)
        candidates = (derived_seed(fetch.seed, "replacement", 2, attempt) % 4 for attempt in range(20))
        expected = next(index for index in candidates if index != 2)
    assert ids == [[f"train{expected}" if name == "train2" else name for name in batch] for batch in whole]


def test_figures_are_never_falsified(root):
    data = module(root, 0, on_bad_sample="replace")
    damage(root, "val1")
    damage(root, "test1")
    for loader in (data.eval_loader("val"), data.eval_loader("test")):
        with pytest.raises(DataError, match=r"(val|test)1\.png"):
            list(loader)
    damage(root, "train1")
    with pytest.raises(DataError):  # facts about the data set as well
        data.class_pixels("train")


def test_spawned_workers_follow_the_policy(root):
    data = module(root, 0, on_bad_sample="replace").dataset("train")
    damage(root, "train2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = data[Fetch(2, 11)].id
        received = pickle.loads(pickle.dumps(data))
        assert received[Fetch(2, 11)].id == expected != "train2"


def test_a_global_batch_is_divided_or_refused():
    data = SyntheticScenes(global_batch_size=24, batch_size=5)
    assert data.process_batch_size(processes=4, accumulate=2) == 3
    with pytest.raises(DataError, match=r"global_batch_size = 24 cannot be divided by 5 processes × 1 .*20 or 25"):
        data.process_batch_size(processes=5)
    with pytest.raises(DataError, match=r"cannot be divided by 32 processes × 1 accumulated batches: choose 32, or"):
        data.process_batch_size(processes=32)
    with pytest.raises(ValueError, match="global_batch_size = 0"):
        SyntheticScenes(global_batch_size=0)
    assert SyntheticScenes(batch_size=5).process_batch_size(processes=3) == 5


@pytest.mark.slow
def test_workers_that_ignore_signals_do_not_hold_a_process_at_its_end(tmp_path):
    """One that ends with an exception while a loader is in use, as a notebook or a script of a user's may."""
    code = (
        "from robustseg.data import SyntheticScenes\n"
        "data = SyntheticScenes(image_size=(32, 32), train_length=8, batch_size=2, num_workers=1)\n"
        "batches = iter(data.train_loader())\n"
        "next(batches)\n"
        "raise ArithmeticError\n"
    )
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log, start_new_session=True)
    try:
        assert process.wait(timeout=60) == 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "log").read_text().count("Error") == 1
