"""Worst cases over attacks against brute force."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from robustseg.metrics import class_counts, greedy_worst_case, miou, miou_from_counts, pixel_acc, worst_case_images


def random_confusions(seed: int, attacks: int = 3, images: int = 5, classes: int = 3) -> torch.Tensor:
    """A×N×C×C: each image's true pixels are the same under every attack, the predictions are random."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(0, 12, (images, classes), generator=generator)
    confusions = torch.zeros(attacks, images, classes, classes, dtype=torch.long)
    for attack, image, label in product(range(attacks), range(images), range(classes)):
        guesses = torch.randint(0, classes, (int(true[image, label]),), generator=generator)
        confusions[attack, image, label] = guesses.bincount(minlength=classes)
    return confusions


def under(confusions: torch.Tensor, choice) -> torch.Tensor:
    """The data set's matrix with attack choice[i] on image i, added up one by one."""
    return sum(confusions[int(attack), image] for image, attack in enumerate(choice))


@pytest.mark.parametrize("seed", range(5))
def test_per_image(seed: int):
    confusions = random_confusions(seed)
    worst = worst_case_images(class_counts(confusions))
    for image in range(5):
        accuracies = [
            sum(int(c[k, k]) for k in range(3)) / int(c.sum()) for c in (confusions[a, image] for a in range(3))
        ]
        assert int(worst.attack[image]) == accuracies.index(min(accuracies))
    assert torch.equal(worst.counts, class_counts(under(confusions, worst.attack)))
    assert worst.counts.dtype == torch.long
    assert all(pixel_acc(under(confusions, worst.attack)) <= pixel_acc(c.sum(0)) for c in confusions)


def test_the_first_of_equals_per_image():
    first, better = torch.tensor([[1, 3], [1, 3]]), torch.tensor([[3, 1], [1, 3]])
    confusions = torch.stack([better, first, first.flip(0, 1), first])[:, None]
    assert worst_case_images(class_counts(confusions)).attack.tolist() == [1]


def literal_greedy(confusions: torch.Tensor, seed: int) -> list[int]:
    """The search as described, on whole matrices with the data set added up anew at every candidate."""
    generator = torch.Generator().manual_seed(seed)
    attacks, images = confusions.shape[:2]
    singles = [float(miou(under(confusions, [a] * images))) for a in range(attacks)]
    choice = [singles.index(min(singles))] * images
    changed = True
    while changed:
        before = list(choice)
        for image in torch.randperm(images, generator=generator).tolist():
            tried = [[*choice[:image], a, *choice[image + 1 :]] for a in range(attacks)]
            figures = [float(miou(under(confusions, t))) for t in tried]
            if min(figures) < figures[choice[image]] - 1e-12:
                choice = tried[figures.index(min(figures))]
        changed = choice != before
    return choice


@pytest.mark.parametrize("seed", range(20))
def test_greedy_against_a_literal_search(seed: int):
    # The last class never occurs.
    confusions = torch.nn.functional.pad(random_confusions(seed, attacks=4, images=7), (0, 1, 0, 1))
    confusions[:, 2] = 0  # an image without valid pixels
    found = greedy_worst_case(class_counts(confusions), seed)
    expected = literal_greedy(confusions, seed)
    value = float(miou_from_counts(found.counts))
    assert found.attack.tolist() == expected
    assert value == pytest.approx(float(miou(under(confusions, expected))), abs=1e-12)
    assert torch.equal(found.counts, class_counts(under(confusions, found.attack)))
    assert value <= float(miou(confusions.sum(1)).min()) + 1e-12
    for image, attack in product(range(7), range(4)):
        swapped = [*expected[:image], attack, *expected[image + 1 :]]
        assert float(miou(under(confusions, swapped))) >= value - 1e-12


def test_greedy_finds_the_optimum_on_most_small_problems():
    exact = 0
    for seed in range(20):
        confusions = random_confusions(seed, attacks=2, images=6)
        optimum = min(float(miou(under(confusions, choice))) for choice in product(range(2), repeat=6))
        found = greedy_worst_case(class_counts(confusions), seed)
        exact += float(miou_from_counts(found.counts)) <= optimum + 1e-12
    assert exact >= 12


def test_greedy_goes_below_the_worst_per_image_by_pixel_accuracy():
    """The first attack leaves the lower pixel accuracy; the second destroys the small class."""
    first = torch.tensor([[50, 50], [0, 50]])
    second = torch.tensor([[100, 0], [40, 10]])
    counts = class_counts(torch.stack([first.expand(3, 2, 2), second.expand(3, 2, 2)]))
    assert worst_case_images(counts).attack.tolist() == [0, 0, 0]
    assert float(miou_from_counts(greedy_worst_case(counts).counts)) < float(miou(first))


def test_greedy_counts_a_class_that_only_an_attack_brings_in():
    """IoU 1/2, 1/2 and no third class against 3/5, 3/5, 0: the second mean is lower, though its sum is higher."""
    without = torch.tensor([[20, 10, 0], [10, 20, 0], [0, 0, 0]])
    brought_in = torch.tensor([[18, 0, 12], [0, 18, 12], [0, 0, 0]])
    found = greedy_worst_case(class_counts(torch.stack([without, brought_in])[:, None]))
    assert found.attack.tolist() == [1]
    assert float(miou_from_counts(found.counts)) == pytest.approx(0.4)


def test_order_is_seeded_and_images_without_valid_pixels_change_nothing():
    confusions = random_confusions(3)
    confusions[:, 2] = 0
    counts = class_counts(confusions)
    assert torch.equal(greedy_worst_case(counts, 1).attack, greedy_worst_case(counts, 1).attack)
    kept = [0, 1, 3, 4]
    assert torch.equal(worst_case_images(counts).counts, worst_case_images(counts[:, kept]).counts)
    assert int(worst_case_images(counts).attack[2]) == 0


def test_the_order_of_the_images_depends_on_the_seed():
    counts = class_counts(random_confusions(0, attacks=4, images=20, classes=4))
    found = {tuple(greedy_worst_case(counts, seed).attack.tolist()) for seed in range(8)}
    assert len(found) > 1


@pytest.mark.parametrize("function", [worst_case_images, greedy_worst_case])
def test_without_an_image_or_a_valid_pixel_there_is_a_choice_but_no_score(function):
    assert function(torch.zeros(2, 0, 3, 4, dtype=torch.long)).attack.tolist() == []
    nothing = function(torch.zeros(2, 3, 3, 4, dtype=torch.long))
    assert nothing.attack.tolist() == [0, 0, 0]
    assert miou_from_counts(nothing.counts).isnan()


@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 2, 3), (2, 5, 4, 3, 3)])
@pytest.mark.parametrize("function", [worst_case_images, greedy_worst_case])
def test_other_shapes_are_refused(function, shape: tuple):
    with pytest.raises(ValueError, match=r"A×N×3×C; give what class_counts"):
        function(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("function", [worst_case_images, greedy_worst_case])
def test_no_attack_and_images_in_another_order_are_refused(function):
    with pytest.raises(ValueError, match="at least one attack"):
        function(torch.zeros(0, 4, 3, 3, dtype=torch.long))
    counts = class_counts(random_confusions(0))
    counts[2] = counts[2].flip(0)
    with pytest.raises(ValueError, match=r"attacks 0 and 2 differ .* image 0: .*same order"):
        function(counts)
