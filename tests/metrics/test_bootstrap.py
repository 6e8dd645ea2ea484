"""Bootstrap intervals against a literal loop, closed forms and their coverage."""

from __future__ import annotations

import math

import pytest
import torch

from robustseg.metrics import (
    bootstrap,
    class_counts,
    confidence_intervals,
    mean_acc_from_counts,
    miou_from_counts,
    pixel_acc_from_counts,
)

NAMES = ["pixel_acc", "mean_acc", "miou", "image_miou"]


def random_counts(seed: int, images: int = 6, classes: int = 4) -> torch.Tensor:
    """Images with half of the classes each, so that resamples without a class are frequent."""
    generator = torch.Generator().manual_seed(seed)
    confusions = torch.randint(0, 30, (images, classes, classes), generator=generator)
    confusions[torch.rand(images, classes, generator=generator) < 0.5] = 0
    confusions[:, 0, 0] += 1
    return class_counts(confusions)


def literal_scores(images: list) -> list[float]:
    """The four scores of a list of images, each [true positives, true pixels, predicted pixels] per class."""

    def miou_of(parts: list) -> float:
        ious = [tp / (true + guess - tp) for tp, true, guess in zip(*parts, strict=True) if true + guess]
        return math.fsum(ious) / len(ious)

    parts = [[sum(image[k][c] for image in images) for c in range(len(images[0][k]))] for k in range(3)]
    accuracies = [tp / true for tp, true, _ in zip(*parts, strict=True) if true]
    own = [miou_of(image) for image in images]
    return [
        sum(parts[0]) / sum(parts[1]),
        math.fsum(accuracies) / len(accuracies),
        miou_of(parts),
        math.fsum(own) / len(own),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_against_a_literal_loop(seed: int):
    counts = random_counts(seed)
    # The draws are the library's; what is made of them is not. The images are in the order of their counts.
    ordered = sorted(counts.tolist())
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(6, (50, 6), generator=generator).tolist()
    scores = [literal_scores([ordered[i] for i in chosen]) for chosen in draws]
    found = confidence_intervals(counts, level=0.9, resamples=50, seed=seed)
    assert list(found) == NAMES
    for name, values in zip(NAMES, zip(*scores, strict=True), strict=True):
        ranked = sorted(values)
        for end, share in zip(found[name], (0.05, 0.95), strict=True):
            position = share * 49
            below = math.floor(position)
            expected = ranked[below] + (position - below) * (ranked[below + 1] - ranked[below])
            assert end == pytest.approx(expected, abs=1e-12)


def test_some_resamples_of_the_literal_loop_lack_a_class():
    counts = random_counts(0)
    draws = torch.randint(6, (50, 6), generator=torch.Generator().manual_seed(0))
    unions = counts[draws][:, :, 1:].sum((1, 2))
    true = counts[draws][:, :, 1].sum(1)
    assert (true == 0).any()
    assert (unions > 0).any(0).all()


def test_two_images_of_known_scores_have_three_resamples():
    """Both images right: 1; both wrong: 0; one each: 1/2, with probabilities 1/4, 1/4, 1/2."""
    counts = class_counts(torch.tensor([[[4, 0], [0, 0]], [[0, 4], [0, 0]]]))
    assert confidence_intervals(counts)["pixel_acc"] == (0.0, 1.0)
    assert confidence_intervals(counts, level=0.4)["pixel_acc"] == (0.5, 0.5)


def test_large_samples_agree_with_the_normal_approximation():
    """Images of equal size: pixel_acc is a mean, its interval ± 1.96 standard errors."""
    generator = torch.Generator().manual_seed(0)
    right = torch.randint(0, 101, (400,), generator=generator)
    found = confidence_intervals(one_class_of_two(right, 100), resamples=4000)["pixel_acc"]
    share = right.double() / 100
    error = float(share.std() / math.sqrt(400))
    # The ends are quantiles of 4000 draws: standard error sqrt(0.025·0.975/4000)/density(1.96) = 0.042 of `error`.
    for end, sign in zip(found, (-1, 1), strict=True):
        assert end == pytest.approx(float(share.mean()) + sign * 1.96 * error, abs=0.2 * error)


def one_class_of_two(right: torch.Tensor, pixels: int) -> torch.Tensor:
    """Counts of images whose pixels are all of class 0 and predicted 0 ``right`` times, otherwise 1."""
    zero = torch.zeros_like(right)
    return torch.stack(
        [
            torch.stack([right, zero], -1),
            torch.stack([zero + pixels, zero], -1),
            torch.stack([right, pixels - right], -1),
        ],
        1,
    )


def test_intervals_cover_the_known_share():
    """Each image's share right is uniform in [0, 1]: 90 % intervals hold 1/2 about 90 times of 100.

    With 50 images a percentile interval covers a little less than its level, here by about 1 %; in
    300 repetitions the count has a standard deviation of 5.2, so that 252 (84 %) and 288 (96 %) are 3.5 of them off.
    """
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(300):
        right = torch.randint(0, 1001, (50,), generator=generator)
        low, high = confidence_intervals(one_class_of_two(right, 1000), level=0.9, resamples=200)["pixel_acc"]
        covered += low <= 0.5 <= high
    assert 252 <= covered <= 288


def test_one_image_has_no_spread():
    counts = random_counts(0, images=1)
    found = confidence_intervals(counts)
    total = counts.sum(0)
    exact = [
        pixel_acc_from_counts(total),
        mean_acc_from_counts(total),
        miou_from_counts(total),
        miou_from_counts(total),
    ]
    assert found == {name: (float(value), float(value)) for name, value in zip(NAMES, exact, strict=True)}


def test_images_that_are_all_alike_have_no_spread():
    found = confidence_intervals(random_counts(1, images=1).expand(7, 3, 4))
    for low, high in found.values():
        assert low == pytest.approx(high, abs=1e-15)


def test_order_and_images_without_valid_pixels_change_nothing():
    counts = random_counts(2, images=9)
    expected = confidence_intervals(counts)
    assert confidence_intervals(counts.flip(0)) == expected
    assert confidence_intervals(torch.cat([torch.zeros_like(counts[:2]), counts])) == expected
    repeated = torch.cat([counts, counts[:3]])
    assert confidence_intervals(repeated) != expected
    assert confidence_intervals(repeated.flip(0)) == confidence_intervals(repeated)


def test_the_seed_decides():
    counts = random_counts(2, images=9)
    assert confidence_intervals(counts, seed=1) == confidence_intervals(counts, seed=1)
    assert confidence_intervals(counts, seed=1) != confidence_intervals(counts, seed=2)


@pytest.mark.parametrize("size", [1, 40, 12_345])
def test_blocks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch, size: int):
    counts = random_counts(3, images=10)
    expected = confidence_intervals(counts)
    monkeypatch.setattr(bootstrap, "_BLOCK", size)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert confidence_intervals(counts) == expected
    finally:
        torch.set_num_threads(before)


def test_a_higher_level_is_wider():
    counts = random_counts(4, images=12)
    narrow, wide = confidence_intervals(counts, level=0.5), confidence_intervals(counts, level=0.95)
    for name in NAMES:
        assert wide[name][0] < narrow[name][0] < narrow[name][1] < wide[name][1]


def test_without_any_valid_pixel_there_is_no_interval():
    found = confidence_intervals(torch.zeros(3, 3, 4, dtype=torch.long))
    assert list(found) == NAMES
    assert all(math.isnan(end) for ends in found.values() for end in ends)


def test_bad_input_is_refused():
    counts = random_counts(0)
    with pytest.raises(ValueError, match="at least one image"):
        confidence_intervals(counts[:0])
    for level in (0.0, 1.0, 95, math.nan):
        with pytest.raises(ValueError, match=r"level = .*between 0 and 1"):
            confidence_intervals(counts, level=level)
    with pytest.raises(ValueError, match=r"resamples = 39: .* at least 40"):
        confidence_intervals(counts, resamples=39)
    confidence_intervals(counts, resamples=40)
    confidence_intervals(counts, level=0.9, resamples=20)
    for shape in ((3, 4), (5, 4, 4), (2, 5, 3, 4)):
        with pytest.raises(ValueError, match=r"use N×3×C; give what class_counts"):
            confidence_intervals(torch.zeros(shape, dtype=torch.long))
