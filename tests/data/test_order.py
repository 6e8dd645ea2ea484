"""The order of training samples: a function of seed, epoch and position, whoever asks."""

from __future__ import annotations

import hashlib

import pytest
import torch

from robustseg.data import DataError, Fetch, SampleOrder, SyntheticScenes, derived_seed
from robustseg.data.scenes import render_scene
from robustseg.data.transforms import TrainTransform


class Numbers(torch.utils.data.Dataset):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length


def order(length=23, batch_size=2, accumulate=1, ranks=1, rank=0, seed=3, epoch=0, position=0):
    sampler = SampleOrder(Numbers(length), batch_size, accumulate, seed, ranks, rank)
    sampler.start_at(epoch, position)
    return list(sampler)


def literal(length, seed, epoch):
    """The permutation and its seeds, written out."""

    def number(*parts):
        return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1

    shuffled = torch.randperm(length, generator=torch.Generator().manual_seed(number(seed, "order", epoch)))
    return [Fetch(int(k), number(seed, "augmentation", epoch, int(k))) for k in shuffled]


@pytest.mark.parametrize(("epoch", "seed"), [(0, 3), (5, 3), (0, 4)])
def test_it_is_the_permutation_of_seed_and_epoch(epoch, seed):
    assert order(seed=seed, epoch=epoch) == literal(23, seed, epoch)[:22]


def test_epochs_and_seeds_differ_in_order_and_in_augmentation():
    orders = [order(epoch=0), order(epoch=1), order(seed=4)]
    assert len({tuple(fetch.sample for fetch in one) for one in orders}) == 3
    seeds = [fetch.seed for one in orders for fetch in one]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_share_what_one_process_would_see_in_the_same_updates(ranks, accumulate):
    """R ranks with B images and k batches per update: the samples of one process with R·B·k images."""
    images = 2 * ranks * accumulate
    alone = order(batch_size=images)
    parts = [order(batch_size=2, accumulate=accumulate, ranks=ranks, rank=rank) for rank in range(ranks)]
    assert sum(map(len, parts)) == len(alone) == 23 // images * images
    per_rank = 2 * accumulate
    for update in range(len(alone) // images):
        together = [fetch for part in parts for fetch in part[update * per_rank : (update + 1) * per_rank]]
        assert sorted(together) == sorted(alone[update * images : (update + 1) * images])


@pytest.mark.parametrize("position", [0, 4, 12, 20, 24])
def test_it_starts_anywhere_and_is_as_long_as_ever(position):
    whole = [order(length=24, ranks=2, rank=rank, epoch=2) for rank in (0, 1)]
    rest = [order(length=24, ranks=2, rank=rank, epoch=2, position=position) for rank in (0, 1)]
    assert rest == [part[position // 2 :] for part in whole]
    sampler = SampleOrder(Numbers(24), 2, 1, 3, 2, 0)
    sampler.start_at(2, position)
    assert len(sampler) == 12


def test_being_told_the_epoch_it_is_in_does_not_start_it_over():
    """Lightning calls ``set_epoch`` after it has made the iterator, and again for each epoch."""
    sampler = SampleOrder(Numbers(24), 4, seed=3)
    sampler.start_at(2, 8)
    sampler.set_epoch(2)
    assert list(sampler) == literal(24, 3, 2)[8:]
    sampler.set_epoch(3)
    assert list(sampler) == literal(24, 3, 3)
    sampler.set_epoch(2)
    assert list(sampler) == literal(24, 3, 2)


def test_with_less_than_one_update_it_gives_whole_batches():
    assert len(order(length=7, batch_size=2, accumulate=8)) == 6


def test_too_few_samples_are_refused_with_the_size_that_would_do():
    with pytest.raises(DataError, match=r"7 images for 2 process\(es\).*batch_size to 3"):
        SampleOrder(Numbers(7), 4, num_replicas=2)


def test_seeds_are_the_same_in_every_process():
    assert derived_seed(7, "order", 0) == 2742524852831928775
    assert derived_seed(7, "order", 0) != derived_seed(7, "order", 1)


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_augmentation_is_a_function_of_the_fetch_whatever_the_workers(num_workers, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    data = SyntheticScenes(image_size=(32, 32), train_length=6, batch_size=2, num_workers=num_workers)
    torch.manual_seed(num_workers)  # what it must not depend on
    images = {id: image for batch in data.train_loader() for id, image in zip(batch.ids, batch.images, strict=True)}
    assert len(images) == 6
    augment = TrainTransform((32, 32), (0.75, 1.5))
    for index, seed in literal(6, 11, 0):
        image, _ = augment(*render_scene((0, 0, index), (32, 32)), seed=seed)
        expected = torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255
        assert torch.equal(images[f"train-{index:06d}"], expected)
