"""Worst cases over attacks against brute force."""

from itertools import product

import pytest
import torch

from robustseg.metrics import greedy_worst_case, miou, pixel_acc, worst_case_images


def random_confusions(seed: int, attacks: int = 3, images: int = 5, classes: int = 3) -> torch.Tensor:
    return torch.randint(0, 6, (attacks, images, classes, classes), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
def test_per_image(seed: int):
    confusions = random_confusions(seed)
    worst = worst_case_images(confusions)
    for image in range(5):
        accuracies = [
            sum(int(c[k, k]) for k in range(3)) / int(c.sum()) for c in (confusions[a, image] for a in range(3))
        ]
        assert int(worst.attack[image]) == accuracies.index(min(accuracies))
    expected = sum(confusions[int(a), i] for i, a in enumerate(worst.attack))
    assert torch.equal(worst.confusion, expected)


def test_worst_per_image_is_never_better_than_an_attack_where_images_have_the_same_number_of_pixels():
    probabilities = torch.rand(4, 6, 9, generator=torch.Generator().manual_seed(0))
    confusions = torch.stack(
        [
            torch.stack([torch.multinomial(p, 50, replacement=True).bincount(minlength=9).view(3, 3) for p in image])
            for image in probabilities
        ]
    )
    worst = pixel_acc(worst_case_images(confusions).confusion)
    assert all(worst <= pixel_acc(confusions[a].sum(0)) for a in range(4))


@pytest.mark.parametrize("seed", range(20))
def test_greedy_is_a_local_minimum_no_worse_than_any_attack(seed: int):
    confusions = random_confusions(seed)
    found = greedy_worst_case(confusions, seed)
    assert torch.equal(found.confusion, sum(confusions[int(a), i] for i, a in enumerate(found.attack)))
    value = float(miou(found.confusion))
    assert value <= float(miou(confusions.sum(1)).min()) + 1e-12
    for image, attack in product(range(5), range(3)):
        swapped = found.confusion - confusions[int(found.attack[image]), image] + confusions[attack, image]
        assert float(miou(swapped)) >= value - 1e-12


def test_greedy_finds_the_optimum_on_most_small_problems():
    exact = 0
    for seed in range(20):
        confusions = random_confusions(seed, attacks=2, images=6)
        optimum = min(
            float(miou(sum(confusions[a, i] for i, a in enumerate(choice)))) for choice in product(range(2), repeat=6)
        )
        exact += float(miou(greedy_worst_case(confusions, seed).confusion)) <= optimum + 1e-12
    assert exact >= 12


def test_greedy_goes_below_the_worst_per_image_by_pixel_accuracy():
    """Pixel accuracy prefers the first attack; the second destroys the small class."""
    first = torch.tensor([[50, 50], [0, 2]])
    second = torch.tensor([[80, 20], [2, 0]])
    confusions = torch.stack([first.expand(3, 2, 2), second.expand(3, 2, 2)])
    assert worst_case_images(confusions).attack.tolist() == [0, 0, 0]
    found = greedy_worst_case(confusions)
    assert float(miou(found.confusion)) <= min(float(miou(first)), float(miou(second)))


def test_order_is_seeded_and_images_without_valid_pixels_change_nothing():
    confusions = random_confusions(3)
    confusions[:, 2] = 0
    assert torch.equal(greedy_worst_case(confusions, 1).attack, greedy_worst_case(confusions, 1).attack)
    kept = [0, 1, 3, 4]
    assert torch.equal(worst_case_images(confusions).confusion, worst_case_images(confusions[:, kept]).confusion)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 3, 2), (0, 4, 3, 3)])
@pytest.mark.parametrize("function", [worst_case_images, greedy_worst_case])
def test_other_shapes_are_refused(function, shape: tuple):
    with pytest.raises(ValueError, match="A×N×C×C"):
        function(torch.zeros(shape, dtype=torch.long))
