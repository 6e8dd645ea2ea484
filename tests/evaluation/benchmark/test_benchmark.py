"""What is evaluated, in which parts, and under which name."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch

from robustseg.evaluation import EvaluationError
from robustseg.evaluation.benchmark import Shard
from robustseg.evaluation.benchmark.facts import commit, versions
from tests.evaluation.benchmark.tiny import IMAGES, tiny_benchmark, tiny_data, toy_model


@pytest.mark.parametrize(("text", "number", "count"), [("1/1", 1, 1), ("2/4", 2, 4), (" 3 / 3 ", 3, 3)])
def test_shards_are_written_i_of_n(text, number, count):
    assert Shard.parse(text) == Shard(number, count)
    assert str(Shard.parse(text)) == f"{number}/{count}"


@pytest.mark.parametrize("text", ["3/2", "0/2", "0/0", "", "1", "a/b", "1/2/3", "-1/2", "1.0/2", "2/1"])
def test_shards_that_cannot_be_are_refused(text):
    with pytest.raises(EvaluationError, match=r"--shard"):
        Shard.parse(text)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("only", [None, 5])
def test_shards_part_the_same_batches_between_them(count, only):
    data = tiny_data()
    ids = None if only is None else data.sample_ids("test")[1 : 1 + only]
    whole = tiny_benchmark(data=data, only=ids).batches()
    parts = [tiny_benchmark(data=data, only=ids, shard=Shard(k, count)).batches() for k in range(1, count + 1)]
    assert sorted(batch for part in parts for batch in part) == whole
    assert sorted(index for batch in whole for index in batch) == (
        list(range(IMAGES)) if only is None else list(range(1, 1 + only))
    )
    assert max(len(part) for part in parts) - min(len(part) for part in parts) <= 1


def test_ids_are_scored_once_and_in_the_order_of_the_data():
    data = tiny_data()
    ids = data.sample_ids("test")
    chosen = tiny_benchmark(data=data, only=[ids[7], ids[2], ids[7]])
    assert chosen.samples == [ids[2], ids[7]]
    assert chosen.facts["data"]["ids"] == [ids[2], ids[7]]
    everything = tiny_benchmark(data=data, only=ids[::-1])
    assert everything.facts["data"]["ids"] is None
    assert everything.name == tiny_benchmark(data=data).name


def test_ids_that_are_not_there_are_named():
    with pytest.raises(
        EvaluationError, match=r"2 of the 3 ids to score are not in the test split, .* 'nowhere'.*test-"
    ):
        tiny_benchmark(only=["nowhere", "test-000001", "x"])
    with pytest.raises(EvaluationError, match="empty"):
        tiny_benchmark(only=[])
    with pytest.raises(EvaluationError, match="check_images = -1"):
        tiny_benchmark(check_images=-1)


def test_another_evaluation_has_another_name():
    data = tiny_data()
    ids = data.sample_ids("test")
    other_mean = toy_model()
    other_mean.mean += 0.01
    benchmarks = {
        "plain": tiny_benchmark(data=data),
        "seed": tiny_benchmark(data=data, seed=1),
        "checkpoint": tiny_benchmark(data=data, checkpoint={"path": "toy.ckpt", "sha256": "1" * 64}),
        "ids": tiny_benchmark(data=data, only=ids[:3]),
        "other ids": tiny_benchmark(data=data, only=ids[1:4]),
        "data": tiny_benchmark(data=tiny_data(seed=5)),
        "size": tiny_benchmark(data=tiny_data(image_size=(32, 40))),
        "settings": tiny_benchmark(data=data, settings={"channels": 9}),
        "mean": tiny_benchmark(data=data, model=other_mean),
    }
    names = [each.name for each in benchmarks.values()]
    assert len(set(names)) == len(names), dict(zip(benchmarks, names, strict=True))
    # what may differ between the parts of an evaluation
    assert tiny_benchmark(data=data, shard=Shard(2, 3)).name == names[0]
    assert tiny_benchmark(data=data, attacks={}).name == names[0]
    assert tiny_benchmark(data=tiny_data(val_batch_size=5, num_workers=1)).name == names[0]
    assert tiny_benchmark(data=data, checkpoint={"path": "/elsewhere/toy.ckpt", "sha256": "0" * 64}).name == names[0]


@pytest.mark.parametrize("part", ["image", "mask"])
def test_one_changed_pixel_is_another_data_set(part):
    data = tiny_data()
    before = data.digest("test")
    assert tiny_data().digest("test") == before
    dataset = data.dataset("test")
    arrays = dataset.arrays

    def changed(index):
        image, mask = (np.array(array) for array in arrays(index))
        if index == IMAGES - 1:
            (image if part == "image" else mask)[-1, -1] ^= 1
        return image, mask

    dataset.arrays = changed
    assert data.digest("test") != before
    dataset.arrays = arrays
    assert data.digest("test") == before


def test_the_order_and_the_ids_of_the_data_are_part_of_its_digest():
    data = tiny_data()
    dataset = data.dataset("test")
    before = data.digest("test")
    sample_id = dataset.sample_id
    dataset.sample_id = lambda index: sample_id(index).replace("test", "best")
    assert data.digest("test") != before


@pytest.mark.parametrize("count", [0, 1, 3, IMAGES, 40])
def test_probed_images_are_spread_over_those_that_are_scored(count):
    of = tiny_benchmark(check_images=count)
    assert len(of.probe_indices) == min(count, IMAGES)
    assert len(set(of.probe_indices)) == len(of.probe_indices)
    assert set(of.probe_samples) <= set(of.samples)
    if count == 3:
        assert of.probe_indices == [1, 5, 9]


def test_facts_name_no_folder_and_no_machine(tmp_path):
    of = tiny_benchmark(checkpoint={"path": str(tmp_path / "toy.ckpt"), "sha256": "0" * 64})
    assert of.facts["model"]["checkpoint"] == "toy.ckpt"
    assert str(tmp_path) not in str(of.facts)
    assert versions()["torch"] == torch.__version__
    assert commit() is None or re.fullmatch(r"[0-9a-f]{40}( and changes since)?", commit())


def test_a_benchmark_does_not_change_what_it_is_given():
    model = toy_model()
    before = copy.deepcopy(model.state_dict())
    tiny_benchmark(model=model).batches()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
