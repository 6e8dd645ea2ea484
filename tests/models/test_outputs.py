"""Outputs of a network that the data has no class for: dropped, or void."""

import pytest
import torch

from robustseg.models import ModelError, SegmentationModel
from tests.helpers.nets import ToyNetwork

IMAGES = torch.rand(2, 3, 8, 8)


def model(**options):
    torch.manual_seed(0)
    return SegmentationModel(ToyNetwork(5), **options).eval()


@pytest.mark.parametrize(
    ("options", "kept", "scored"),
    [
        ({"drop_classes": [4]}, [0, 1, 2, 3], 4),
        ({"drop_classes": [3, 0]}, [1, 2, 4], 3),
        ({"void_class": 4}, [0, 1, 2, 3, 4], 4),
        ({"void_class": 1}, [0, 2, 3, 4, 1], 4),
        ({"drop_classes": [0], "void_class": 2}, [1, 3, 4, 2], 3),
    ],
)
def test_the_model_has_the_other_outputs_in_order_and_void_last(options, kept, scored):
    plain, chosen = model(), model(**options)
    torch.testing.assert_close(chosen(IMAGES), plain(IMAGES)[:, kept])
    assert (chosen.num_classes, chosen.num_scored, chosen.num_outputs) == (len(kept), scored, 5)
    assert chosen.outputs
    assert not plain.outputs
    assert plain.num_scored == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drop_classes": [5]}, r"drop_classes names output 5: .* 0 to 4"),
        ({"drop_classes": [-1]}, r"drop_classes names output -1"),
        ({"void_class": 5}, r"void_class names output 5: .* 0 to 4"),
        ({"drop_classes": [0, 1, 2, 3, 4]}, r"leaves none of the 5 outputs"),
        ({"drop_classes": [0, 1, 2, 3], "void_class": 4}, r"leaves none of the 5 outputs"),
        ({"drop_classes": [2, 2]}, r"output 2 stands twice"),
        ({"drop_classes": [4], "void_class": 4}, r"output 4 stands twice .*void_class = 4"),
    ],
)
def test_outputs_that_are_not_there_are_refused(options, words):
    with pytest.raises(ModelError, match=words):
        model(**options)


def test_void_has_no_pixels_of_the_data():
    assert model().class_pixels(lambda: [3, 4])() == [3, 4]
    assert model(drop_classes=[0]).class_pixels(lambda: [3, 4])() == [3, 4]
    assert model(void_class=0).class_pixels(lambda: [3, 4])() == [3, 4, 0]
