"""The bill of an evaluation from speeds and sizes, on a clock of its own."""

from __future__ import annotations

import pytest
import torch

from robustseg.planning.bill import Line
from robustseg.planning.evaluation import SAMPLES, Sizes, attack_items, load_sizes, scoring_seconds
from robustseg.planning.rates import Rate, Rates
from robustseg.types import Sample


class Images(list):
    """Samples of given heights, 10 pixels wide, of which each takes 0.5 s to load."""

    def __init__(self, heights, clock):
        super().__init__(
            Sample(torch.zeros(3, h, 10), torch.zeros(h, 10).long(), str(n)) for n, h in enumerate(heights)
        )
        self.clock, self.loaded = clock, 0

    def as_deployed(self):
        return self

    def __getitem__(self, index):
        self.loaded += 1
        self.clock.append(0.5)
        return super().__getitem__(index)


class Data:
    def __init__(self, heights, batch_size, image_size=None):
        self.clock: list[float] = []
        self.images = Images(heights, self.clock)
        self.val_batch_size, self.image_size = batch_size, image_size
        places = range(len(heights))
        self.batches = [places[first : first + batch_size] for first in range(0, len(heights), batch_size)]

    def dataset(self, split):
        return self.images

    def sizes(self, speed=1.0) -> Sizes:
        return load_sizes(self, "test", self.batches, lambda: speed * sum(self.clock))


def test_images_of_one_size_are_measured_once():
    data = Data([8] * 10, 4, (8, 10))
    sizes = data.sizes()
    assert [len(batch.ids) for batch in sizes.measured] == [4]  # a whole batch, not the last one
    assert (sizes.pixels, sizes.seconds) == (80, 0.5)
    assert data.images.loaded <= 8


@pytest.mark.parametrize("count", [3, 100])
def test_of_several_sizes_a_small_a_middle_and_a_large_one(count):
    heights = [(7 * n) % count + 1 for n in range(count)]
    data = Data(heights, 1)
    sizes = data.sizes(0.01)
    assert data.images.loaded == min(count, SAMPLES)
    small, middle, large = (len(batch.targets[0]) for batch in sizes.measured)
    assert small < middle < large
    assert sizes.pixels == pytest.approx(10 * sum(heights) / count, rel=0.1)


def test_slow_images_are_not_all_loaded():
    data = Data(range(1, 101), 1)
    data.sizes(8.0)
    assert data.images.loaded == 2


RATES = Rates(
    {
        "clean": Rate(Line(0.0), Line(0.01, 1.0), 0.0, 0.0, False),
        "pgd": Rate(Line(0.1, 2.0), Line(0.02), 20.0, 20.0, False),
        "apgd": Rate(Line(0.2), Line(0.02), 100.0, 100.0, True),
    },
    {"blocked": "no gradient"},
)
SIZES = Sizes([], 50.0, 0.0)


def test_seconds_of_all_images():
    items = attack_items(RATES, {"clean": 10, "pgd": 10, "apgd": 7, "blocked": 10}, SIZES, 4)
    assert [item.seconds for item in items] == [pytest.approx(each) for each in (3 + 5, 3 * 2 + 50, 70, 0)]
    assert [item.early for item in items] == [False, False, True, False]
    assert items[3].error == "no gradient"
    assert scoring_seconds(RATES, {"clean": 10, "pgd": 10, "apgd": 7, "blocked": 10}, SIZES, 4) == pytest.approx(17)


def test_images_that_left_before_will_leave_again():
    (item,) = attack_items(RATES, {"apgd": 7}, SIZES, 4, {"apgd": 50.0, "pgd": 1.0})
    assert item.likely == 0.25
    assert (item.seconds, item.expected) == (pytest.approx(70), pytest.approx(17.5))
    (item,) = attack_items(RATES, {"pgd": 10}, SIZES, 4, {"pgd": 1.0})
    assert item.likely is None  # its steps are fixed
