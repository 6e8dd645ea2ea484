"""The pictures that an evaluation keeps: those of the extremes, and no more."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from robustseg.evaluation import Example
from robustseg.evaluation.pictures import PICTURES, PictureKeeper


def example(sample: str, classes: int = 300) -> Example:
    generator = torch.Generator().manual_seed(len(sample) + sum(sample.encode()))
    image = torch.randint(0, 256, (3, 6, 5), generator=generator) / 255
    image_adv = (image + (torch.rand(3, 6, 5, generator=generator) - 0.5) * 16 / 255).clamp(0, 1)
    maps = [torch.randint(0, classes, (6, 5), generator=generator) for _ in range(3)]
    return Example(sample, image, image_adv, *maps)


def feed(keeper: PictureKeeper, accs: dict[str, float], batch: int = 3, attack: str = "pgd") -> None:
    samples = list(accs)
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        for row in keeper.wanted(attack, part, torch.tensor([accs[sample] for sample in part], dtype=torch.float64)):
            keeper.keep(attack, example(part[row]), accs[part[row]])


def kept(keeper: PictureKeeper, samples, attack: str = "pgd") -> set[str]:
    return {sample for sample in samples if keeper.load(attack, sample) is not None}


def test_a_picture_comes_back_as_it_was(tmp_path):
    keeper = PictureKeeper(tmp_path)
    before = example("a/ü?")
    keeper.keep("pgd/20", before, 0.5)
    after = keeper.load("pgd/20", "a/ü?")
    assert after.id == "a/ü?"
    torch.testing.assert_close(after.image, before.image, rtol=0, atol=1e-6)
    torch.testing.assert_close(after.image_adv, before.image_adv, rtol=0, atol=0.1 / 255)
    for name in ("target", "prediction", "prediction_adv"):
        assert torch.equal(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_extremes_are_kept_in_any_order_and_nothing_else(tmp_path, seed, count):
    generator = random.Random(seed)
    samples = [f"s{number}" for number in range(generator.choice([2, 5, 17]))]
    accs = {sample: generator.choice([0.1, 0.2, 0.3, generator.random()]) for sample in samples}
    generator.shuffle(samples)
    keeper = PictureKeeper(tmp_path, count)
    feed(keeper, {sample: accs[sample] for sample in samples}, generator.choice([1, 3, 20]))
    ranked = sorted(samples, key=lambda sample: (accs[sample], sample))
    expected = set(ranked) if len(ranked) <= 2 * count else {*ranked[:count], *ranked[len(ranked) - count :]}
    assert kept(keeper, samples) == expected
    folder = tmp_path / PICTURES
    assert len(list(folder.iterdir()) if folder.exists() else []) == len(expected)


def test_an_interrupted_evaluation_keeps_the_same_pictures(tmp_path):
    accs = {f"s{number}": random.Random(number).random() for number in range(20)}
    feed(PictureKeeper(tmp_path / "whole"), accs)
    for end in (1, 6, 7, 19):
        first, rest = dict(itertools.islice(accs.items(), end)), dict(itertools.islice(accs.items(), end, None))
        folder = tmp_path / str(end)
        feed(PictureKeeper(folder), first)
        again = PictureKeeper(folder)
        for sample, acc in first.items():
            again.remember("pgd", sample, acc)
        feed(again, rest)
        assert kept(again, accs) == kept(PictureKeeper(tmp_path / "whole"), accs)


def test_a_picture_whose_record_was_not_written_is_made_again(tmp_path):
    """Killed between the two: the image is measured again, and displaces again what it displaced."""
    accs = {"a": 0.1, "b": 0.9, "c": 0.05}
    keeper = PictureKeeper(tmp_path, 1)
    feed(keeper, accs, 1)
    again = PictureKeeper(tmp_path, 1)
    for sample in ("a", "b"):
        again.remember("pgd", sample, accs[sample])
    feed(again, {"c": accs["c"]})
    assert kept(again, accs) == {"b", "c"}


def test_attacks_do_not_share_pictures(tmp_path):
    keeper = PictureKeeper(tmp_path, 1)
    feed(keeper, {"a": 0.1, "b": 0.9})
    feed(keeper, {"c": 0.5}, attack="fgsm")
    assert kept(keeper, "abc") == {"a", "b"}
    assert kept(keeper, "abc", "fgsm") == {"c"}


def test_images_without_valid_pixels_are_not_shown(tmp_path):
    keeper = PictureKeeper(tmp_path)
    keeper.remember("pgd", "a", float("nan"))
    feed(keeper, {"b": float("nan"), "c": 0.5})
    assert kept(keeper, "abc") == {"c"}


@pytest.mark.parametrize("damage", [b"", b"PK", b"no archive"])
def test_a_damaged_picture_is_none(tmp_path, damage):
    keeper = PictureKeeper(tmp_path)
    keeper.keep("pgd", example("a"), 0.5)
    (path,) = (tmp_path / PICTURES).iterdir()
    content = path.read_bytes()
    path.write_bytes(damage)
    assert keeper.load("pgd", "a") is None
    for end in range(0, len(content), 41):
        path.write_bytes(content[:end])
        assert keeper.load("pgd", "a") is None
    for place in range(0, len(content), 23):
        flipped = bytearray(content)
        flipped[place] ^= 255
        path.write_bytes(bytes(flipped))
        keeper.load("pgd", "a")
    assert keeper.load("pgd", "never seen") is None
