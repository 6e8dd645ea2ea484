"""Self-entropy of patch votes: literal reference, closed forms, and what it may not depend on."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustseg.attacks.noise import NoiseSource
from robustseg.detectors import DetectorError, self_entropy, vote_shares
from tests.detectors.nets import (
    Context,
    by_pixel,
    check_that_nothing_else_changes,
    constant,
    counting,
    ids_of,
    model,
    upper_half,
)
from tests.detectors.nets import images_of as any_images_of

STREAM = 0xE27209
SMALL = {"patch_size": 9, "k": 4}
images_of = partial(any_images_of, size=(20, 25))


def offsets_of(identity, k, size, seed=0):
    """Where a cell of each grid begins: two integers in [0, size) per grid."""
    noise = NoiseSource.for_samples((seed, STREAM), [identity], torch.device("cpu"))
    return (noise.uniform(torch.empty(1, k, 2, dtype=torch.float64))[0] * size).floor().int().tolist()


def literal_votes(answer, image, offsets, size):
    """For each pixel, the class that it has in the patch of its cell, once per grid; and where these patches are."""
    height, width = image.shape[-2:]
    votes = [[[] for _ in range(width)] for _ in range(height)]
    patches = [[[] for _ in range(width)] for _ in range(height)]
    predicted = {}
    for down, right in offsets:
        for row in range(height):
            for column in range(width):
                top = row - (row - down) % size
                left = column - (column - right) % size
                # moved back into the image
                top, left = min(max(top, 0), height - size), min(max(left, 0), width - size)
                if (top, left) not in predicted:
                    with torch.no_grad():
                        shown = answer(image[None, :, top : top + size, left : left + size])
                    predicted[top, left] = shown.argmax(1)[0]
                votes[row][column].append(int(predicted[top, left][row - top, column - left]))
                patches[row][column].append((top, left))
    return votes, patches


def literal_entropy(votes):
    shares = [votes.count(label) / len(votes) for label in set(votes)]
    return -sum(share * math.log(share) for share in shares)


@pytest.mark.parametrize(("size", "k"), [(9, 5), (5, 1), (20, 3), (1, 2)])
def test_it_is_the_papers(size, k):
    images, answer = images_of(), model()
    found = self_entropy(answer, images, ids_of(), patch_size=size, k=k, seed=7)
    shares = vote_shares(answer, images, ids_of(), patch_size=size, k=k, seed=7)
    assert (found.shape, found.dtype) == ((3, 20, 25), torch.float32)
    assert (shares.shape, shares.dtype) == ((3, 4, 20, 25), torch.float32)
    for number, identity in enumerate(ids_of()):
        votes, _ = literal_votes(answer, images[number], offsets_of(identity, k, size, 7), size)
        wanted = [[literal_entropy(pixel) for pixel in row] for row in votes]
        np.testing.assert_allclose(found[number].double(), wanted, atol=1e-6)
        for label in range(4):
            wanted = [[pixel.count(label) / k for pixel in row] for row in votes]
            np.testing.assert_allclose(shares[number, label], wanted, atol=1e-7)
    # were all pixels agreed on, nothing would have been shown
    assert size == 1 or k == 1 or found.max() > 0.5


def numbered(height, width, count=2):
    """Images whose pixels hold their own number, and a model that answers the number of its input's first pixel."""

    def answer(images):
        first = (images[:, 0, 0, 0] * height * width).round().long()
        logits = nn.functional.one_hot(first, height * width).float()
        return logits[..., None, None].expand(-1, -1, *images.shape[-2:])

    numbers = torch.arange(height * width) / (height * width)
    return numbers.view(1, 1, height, width).expand(count, 3, -1, -1), answer


@given(size=st.integers(1, 12), k=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_each_pixel_has_k_votes_of_patches_that_contain_it(size, k, seed):
    numbers, answer = numbered(12, 15)
    asked = []

    def counted(images):
        asked.append(len(images))
        assert images.shape[-2:] == (size, size)
        return answer(images)

    votes = vote_shares(counted, numbers, ["a", "b"], patch_size=size, k=k, seed=seed) * k
    assert torch.equal(votes.round().sum(1), torch.full((2, 12, 15), float(k)))
    grids = [grid for identity in "ab" for grid in offsets_of(identity, k, size, seed)]
    cells = [
        [{(at - offset) // size for at in range(whole)} for offset, whole in zip(grid, (12, 15), strict=True)]
        for grid in grids
    ]
    assert sum(asked) == sum(len(rows) * len(columns) for rows, columns in cells)
    assert sum(asked) <= 2 * k * math.ceil((12 + size) / size) * math.ceil((15 + size) / size)
    for label in range(12 * 15):
        top, left = divmod(label, 15)
        elsewhere = votes[:, label].clone()
        elsewhere[:, top : top + size, left : left + size] = 0
        assert not bool(elsewhere.any())


def test_every_place_in_the_patch_is_equally_likely():
    """A pixel that is far enough from the borders is seen from all s×s places, near them only from those within."""
    size, k = 3, 6000
    numbers, answer = numbered(7, 9, 1)
    shares = vote_shares(answer, numbers, ["a"], patch_size=size, k=k)[0].view(7, 9, 7, 9)
    middle = shares[:, :, 3, 4]
    assert middle[1:4, 2:5].tolist() == pytest.approx(np.full((3, 3), 1 / 9), abs=0.015)
    assert middle.sum() == pytest.approx(1)
    assert shares[0, 0, 0, 0] == 1
    # one row below the border: only a grid that begins there shows it in another patch than the border's
    beside = shares[:, :, 1, 4].sum(1)
    assert beside[:2].tolist() == pytest.approx([2 / 3, 1 / 3], abs=0.02)


@pytest.mark.parametrize("answer", [by_pixel, constant])
def test_no_entropy_where_the_place_makes_no_difference(answer):
    images = images_of()
    assert not bool(self_entropy(answer, images, ids_of(), **SMALL).any())
    shares = vote_shares(answer, images, ids_of(), **SMALL)
    assert torch.equal(shares.argmax(1), answer(images).argmax(1))
    assert torch.equal(shares.amax(1), torch.ones(3, 20, 25))


def test_one_vote_has_no_entropy():
    assert not bool(self_entropy(model(), images_of(), ids_of(), patch_size=9, k=1).any())


def test_closed_form_of_a_model_that_goes_by_the_place():
    """By which patch a row is seen in is known from the grid's place: class 1 in its upper half. Of all places, half
    show a row that is far from the borders in class 1, which is an entropy of log 2."""
    size, k = 4, 20
    shares = vote_shares(upper_half, images_of(1), ["x"], patch_size=size, k=k)[0, 1]
    downs = [down for down, _ in offsets_of("x", k, size)]
    wanted = [sum((row - down) % size < 2 for down in downs) / k for row in range(4, 16)]
    assert 0 < min(wanted) < max(wanted) < 1
    np.testing.assert_allclose(shares[4:16], np.tile(np.array(wanted)[:, None], (1, 25)), atol=1e-7)
    # the first two rows are the upper half of the first patch, and of every one that reaches beyond the border
    assert shares[0].tolist() == [1.0] * 25
    assert shares[-1].tolist() == [0.0] * 25
    many = self_entropy(upper_half, images_of(1), ["x"], patch_size=size, k=2000)[0]
    assert many[4:16].numpy() == pytest.approx(math.log(2), abs=0.01)
    assert not bool(many[0].any())


@pytest.mark.parametrize("function", [vote_shares, self_entropy])
def test_a_map_depends_on_nothing_else_in_its_batch(function):
    images, answer = images_of(), model()
    together = function(answer, images, ids_of(), **SMALL, seed=3)
    order = [2, 0, 1]
    mixed = function(answer, images[order], [ids_of()[row] for row in order], **SMALL, seed=3)
    assert torch.equal(mixed, together[order])
    for row in range(3):
        alone = function(answer, images[row : row + 1], ids_of()[row : row + 1], **SMALL, seed=3)
        assert torch.equal(alone[0], together[row])


def test_patches_are_a_function_of_seed_and_ids():
    images, answer = images_of(1).expand(3, -1, -1, -1), model()
    first = self_entropy(answer, images, ids_of(), **SMALL)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(self_entropy(answer, images, ids_of(), **SMALL), first)
    assert not torch.equal(self_entropy(answer, images, ids_of(), **SMALL, seed=1), first)
    assert torch.equal(first[0], self_entropy(answer, images[:1], ["image 0"], **SMALL)[0])


def test_nothing_else_changes():
    check_that_nothing_else_changes(lambda answer, images: self_entropy(answer, images, ids_of(), **SMALL))


def test_the_model_is_asked_without_autograd():
    def answer(images):
        assert not torch.is_grad_enabled()
        return constant(images)

    self_entropy(answer, images_of(), ids_of(), **SMALL)
    assert torch.is_grad_enabled()


def test_a_model_that_fails_is_put_back():
    answer = Context().train()
    with pytest.raises(DetectorError, match="logits must be B×C×H×W"):
        self_entropy(nn.Sequential(answer, nn.Flatten()), images_of(), ids_of(), **SMALL)
    assert answer.training


def test_batches_of_patches_change_nothing_and_shrink_to_what_fits():
    images, sizes, tried = images_of(), [], []

    together = vote_shares(counting(sizes, tried), images, ids_of(), **SMALL)
    (count,) = sizes
    sizes.clear()
    limited = vote_shares(counting(sizes, tried), images, ids_of(), **SMALL, patches_per_forward=7)
    assert sizes == [7] * (count // 7) + [count % 7] * bool(count % 7)
    tried.clear()
    halved = vote_shares(counting(sizes, tried, 30), images, ids_of(), **SMALL)
    assert tried[0] == count
    assert max(tried[-2:]) <= 30
    assert torch.equal(together, limited)
    assert torch.equal(together, halved)
    with pytest.raises(torch.OutOfMemoryError):
        vote_shares(counting(sizes, tried, 5), images, ids_of(), **SMALL, patches_per_forward=7)


def test_a_double_model_and_images():
    images = images_of().double()
    found = self_entropy(model().double(), images, ids_of(), **SMALL)
    assert found.dtype == torch.float32
    assert 0 < found.max() <= math.log(4) + 1e-6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 0}, ["k = 0"]),
        ({"patch_size": 0}, ["patch_size = 0"]),
        ({"patch_size": 21}, ["patch_size = 21", "20×25", "about 10"]),
        ({"patches_per_forward": 0}, ["patches_per_forward = 0"]),
        ({"ids": ["only one"]}, ["1 ids for 3 images"]),
        ({"images": torch.zeros(3, 24, 30)}, ["(3, 24, 30)", "B×3×H×W"]),
        ({"images": torch.zeros(3, 3, 24, 30, dtype=torch.uint8)}, ["uint8"]),
        ({"images": torch.zeros(0, 3, 24, 30), "ids": []}, ["(0, 3, 24, 30)"]),
        ({"model": lambda shown: shown[:, :, ::2]}, ["logits must be B×C×H×W"]),
        ({"model": lambda shown: {"out": shown}}, ["returned a dict"]),
    ],
)
def test_bad_input_is_one_clear_message(change, words):
    arguments = {"model": model(), "images": images_of(), "ids": ids_of(), **SMALL, **change}
    with pytest.raises(DetectorError) as caught:
        self_entropy(arguments.pop("model"), arguments.pop("images"), arguments.pop("ids"), **arguments)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_the_largest_patch_is_the_whole_image():
    images, answer = any_images_of(2, (8, 8)), model()
    shares = vote_shares(answer, images, ["a", "b"], patch_size=8, k=3)
    assert torch.equal(shares.argmax(1), answer(images).argmax(1))
    assert torch.equal(shares.amax(1), torch.ones(2, 8, 8))
