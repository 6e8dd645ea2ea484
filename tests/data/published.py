"""What the tests of the published data sets share."""

from __future__ import annotations

import numpy as np
import pytest

from robustseg.data import (
    ADE20K,
    BDD100K,
    CamVid,
    Cityscapes,
    COCOStuff,
    DataError,
    FolderPairs,
    PascalContext,
    PascalVOC,
)

MODULES = {
    module.__name__: module
    for module in (ADE20K, BDD100K, CamVid, Cityscapes, COCOStuff, FolderPairs, PascalContext, PascalVOC)
}
PUBLISHED = [name for name in MODULES if name != "FolderPairs"]
COMMON = {"crop_size": (32, 32), "num_workers": 0, "batch_size": 1, "image_size": None, "augment": False}


def module(name, root, **settings):
    if name == "FolderPairs":
        settings = {"classes": "classes.yaml", **settings}
    return MODULES[name](str(root), **{**COMMON, **settings})


def error_of(name, root, split="train", **settings):
    """Message of the error that opening and then reading a split ends in."""

    def read_all():
        dataset = module(name, root, **settings).dataset(split)
        for index in range(len(dataset)):
            dataset[index]

    with pytest.raises(DataError) as caught:
        read_all()
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_holds(dataset, truth):
    assert [dataset.sample_id(index) for index in range(len(dataset))] == sorted(truth)
    for index, name in enumerate(sorted(truth)):
        sample = dataset[index]
        assert np.array_equal(sample.target.numpy(), truth[name].astype(np.int64)), name
        assert sample.image.shape == (3, *sample.target.shape)
