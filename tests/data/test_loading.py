"""Batches, samplers and the data set around them."""

import multiprocessing
import os
import pickle
import random
from typing import ClassVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser
from lightning_fabric.utilities.seed import pl_worker_init_function
from torch import distributed

from robustseg.data import (
    CamVid,
    DataError,
    SegmentationData,
    SegmentationDataset,
    SyntheticScenes,
    UnpaddedDistributedSampler,
    collate,
)
from robustseg.data.lightning import SegmentationDataModule
from robustseg.data.loading import seed_worker
from robustseg.types import Batch, Sample
from tests.helpers.paths import ROOT


class Numbers(SegmentationDataset):
    """Sample k is an image full of k; picklable, so that workers can be spawned."""

    def __init__(self, length, size=(8, 8), **kwargs):
        super().__init__(**kwargs)
        self.length = length
        self.size = size

    def __len__(self):
        return self.length

    def sample_id(self, index):
        return f"n{index}"

    def read(self, index):
        return np.full((*self.size, 3), index, np.uint8), np.full(self.size, index % 3, np.uint8)


class NumbersData(SegmentationData):
    classes: ClassVar = (("zero", (0, 0, 0)), ("one", (1, 1, 1)), ("two", (2, 2, 2)))

    def __init__(self, length=13, **kwargs):
        super().__init__(**{"image_size": (8, 8), "num_workers": 0, **kwargs})
        self.length = length

    def make_dataset(self, split):
        return Numbers(self.length, augment=self.augmentation if split == "train" else None)


def test_collate():
    dataset = Numbers(5)
    batch = collate([dataset[3], dataset[1]])
    assert isinstance(batch, Batch)
    assert batch.ids == ["n3", "n1"]
    assert batch.images.shape == (2, 3, 8, 8)
    assert batch.images.dtype == torch.float32
    assert torch.equal(batch.images[:, 0, 0, 0] * 255, torch.tensor([3.0, 1.0]))
    assert torch.equal(batch.targets[:, 0, 0], torch.tensor([0, 1]))
    assert batch.targets.dtype == torch.int64


def test_collate_names_samples_of_different_sizes():
    def sample(name, height, width):
        return Sample(torch.zeros(3, height, width), torch.zeros(height, width, dtype=torch.long), name)

    with pytest.raises(DataError, match=r"small is 4x6, large is 8x6 pixels; set image_size"):
        collate([sample("small", 4, 6), sample("large", 8, 6)])


@pytest.mark.parametrize(("length", "world"), [(13, 2), (12, 3), (7, 4), (4, 4), (5, 1)])
def test_sampler_covers_every_index_once(length, world):
    samplers = [UnpaddedDistributedSampler(Numbers(length), world, rank) for rank in range(world)]
    shares = [list(sampler) for sampler in samplers]
    assert sorted(index for share in shares for index in share) == list(range(length))
    assert [len(sampler) for sampler in samplers] == [len(share) for share in shares]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    samplers[0].set_epoch(3)
    assert list(samplers[0]) == shares[0]


def test_sampler_refuses_idle_ranks():
    with pytest.raises(DataError, match="3 samples cannot be spread over 4 processes"):
        UnpaddedDistributedSampler(Numbers(3), 4, 0)


class Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = {"train": [], "val": []}

    def training_step(self, batch, _):
        self.seen["train"] += batch.ids
        return self.layer(batch.images.mean().reshape(1)).sum()

    def validation_step(self, batch, _):
        self.seen["val"] += batch.ids

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def _fit(rank, port, results):
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", NODE_RANK="0", LOCAL_RANK=str(rank)
    )
    torch.set_num_threads(1)
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, num_sanity_val_steps=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    model = Recorder()
    trainer.fit(model, datamodule=SegmentationDataModule(NumbersData(13, batch_size=2)))
    results.put((rank, model.seen))


@pytest.mark.slow
def test_two_processes_validate_each_image_once():
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    port = 20000 + os.getpid() % 20000
    processes = [context.Process(target=_fit, args=(rank, port, results), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    seen = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=30)
        assert process.exitcode == 0
    assert sorted(seen[0]["val"] + seen[1]["val"]) == sorted(f"n{k}" for k in range(13))
    # Lightning's own sampler: shares of 7 with one repeat, of which drop_last leaves 6
    assert len(seen[0]["train"]) == len(seen[1]["train"]) == 6
    assert len(set(seen[0]["train"] + seen[1]["train"])) >= 11


def test_without_a_process_group_there_is_no_sampler_of_ours():
    assert not distributed.is_initialized()
    module = NumbersData(batch_size=4)
    assert not isinstance(module.eval_loader("val").sampler, UnpaddedDistributedSampler)
    assert [len(batch.ids) for batch in module.eval_loader("val")] == [4, 4, 4, 1]
    assert [len(batch.ids) for batch in module.train_loader()] == [4, 4, 4]
    own = NumbersData(batch_size=2, val_batch_size=5)
    assert (own.train_loader().batch_size, own.eval_loader("val").batch_size) == (2, 5)


def test_training_is_shuffled_and_evaluation_is_not():
    module = NumbersData(64, batch_size=64)
    ordered = [f"n{k}" for k in range(64)]
    loader = module.train_loader()
    first = next(iter(loader)).ids
    assert next(iter(loader)).ids == first  # the same epoch
    loader.sampler.set_epoch(1)
    second = next(iter(loader)).ids
    assert sorted(first) == sorted(second) == sorted(ordered)
    assert first != ordered
    assert first != second
    assert next(iter(module.eval_loader("val"))).ids == ordered
    assert next(iter(module.eval_loader("test"))).ids == ordered


def _equal(first, second):
    return all(
        torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets) and a.ids == b.ids
        for a, b in zip(first, second, strict=True)
    )


def _scenes(workers, **kwargs):
    return SyntheticScenes(
        train_length=6, val_length=5, image_size=(40, 40), batch_size=2, num_workers=workers, **kwargs
    )


def test_validation_does_not_depend_on_the_workers():
    plain = list(_scenes(0).eval_loader("val"))
    assert [name for batch in plain for name in batch.ids] == [f"val-{k:06d}" for k in range(5)]
    loader = _scenes(2).eval_loader("val")
    for _ in range(2):
        assert _equal(plain, list(loader))


@pytest.mark.parametrize(("number", "rank", "seed"), [(0, 0, 0), (3, 1, 7), (1, 9, 2**63 + 5)])
def test_workers_draw_what_lightning_would_seed_them_for(number, rank, seed):
    def drawn(start):
        torch.manual_seed(seed + number)
        start(number, rank)
        return torch.rand(()).item(), random.random(), np.random.rand()  # noqa: NPY002 - the global stream

    assert drawn(seed_worker) == drawn(pl_worker_init_function)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_reproducible_from_the_seed(workers):
    def epoch(seed):
        pl.seed_everything(seed, workers=True, verbose=False)
        return list(_scenes(workers).train_loader())

    first = epoch(3)
    assert _equal(first, epoch(3))
    assert not _equal(first, epoch(4))


def test_each_epoch_augments_anew():
    torch.manual_seed(0)
    dataset = _scenes(0).dataset("train")
    assert not torch.equal(dataset[0].image, dataset[0].image)


def test_pickling_leaves_the_cache_behind():
    dataset = _scenes(0).dataset("val")
    before = len(pickle.dumps(dataset))
    for index in range(5):
        dataset[index]
    assert len(pickle.dumps(dataset)) == before
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3].image, dataset[3].image)


def test_indices_outside_are_refused():
    for index in (-1, 5):
        with pytest.raises(IndexError):
            _scenes(0).dataset("val")[index]


@pytest.mark.parametrize("augment", [True, False])
def test_crop_size_and_augment(augment):
    module = _scenes(0, crop_size=(24, 32), augment=augment)
    assert next(iter(module.train_loader())).images.shape == (2, 3, *((24, 32) if augment else (40, 40)))
    assert next(iter(module.eval_loader("val"))).images.shape == (2, 3, 40, 40)


def test_images_are_resized(root):
    module = CamVid(str(root), image_size=(12, 16), num_workers=0, batch_size=2)
    for loader in (module.train_loader(), module.eval_loader("val")):
        batch = next(iter(loader))
        assert batch.images.shape == (2, 3, 12, 16)
        assert batch.targets.shape == (2, 12, 16)


@pytest.mark.parametrize("module", [CamVid("nowhere"), SyntheticScenes()])
def test_facts_are_known_before_any_file_is_touched(module):
    assert module.num_classes == len(module.class_names) == len(module.palette)
    assert len(set(module.palette)) == len(set(module.class_names)) == module.num_classes
    assert all(isinstance(name, str) for name in module.class_names)
    assert all(0 <= value <= 255 for colour in module.palette for value in colour)
    assert module.ignore_index == 255


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0 is too small: set data.batch_size to 1 or more"),
        ({"val_batch_size": 0}, "val_batch_size = 0"),
        ({"num_workers": -1}, "num_workers = -1"),
        ({"image_size": (0, 8)}, r"image_size = \[0, 8\]"),
        ({"crop_size": (8, -1)}, r"crop_size = \[8, -1\]"),
        ({"image_size": None}, "crop_size and image_size are both missing"),
        ({"flip": 2.0}, "flip = 2.0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        NumbersData(**arguments)


def test_fewer_training_images_than_a_batch():
    with pytest.raises(DataError, match=r"13 images.*set data.batch_size to 13 or less"):
        NumbersData(batch_size=14).train_loader()
    assert len(NumbersData(batch_size=13).train_loader()) == 1


def test_configuration_by_bare_class_name():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationData, "data")
    configs = ROOT / "configs" / "data"
    parser.add_argument("--config", action="config")
    for name, kind in (("synthetic", SyntheticScenes), ("camvid", CamVid)):
        built = parser.instantiate(parser.parse_args(["--config", str(configs / f"{name}.yaml")])).data
        assert type(built) is kind
        assert built.batch_size == 8
    # arguments of the base class reach the subclass with their types
    chosen = parser.parse_args(["--data=SyntheticScenes", "--data.flip=0.25", "--data.crop_size=[32,48]"])
    module = parser.instantiate(chosen).data
    assert module.augmentation.flip == 0.25
    assert module.augmentation.crop_size == (32, 48)
    for bad in ("--data.flip=often", "--data.colour=1"):
        with pytest.raises(Exception, match=r"flip|colour"):
            parser.parse_args(["--data=SyntheticScenes", bad])
