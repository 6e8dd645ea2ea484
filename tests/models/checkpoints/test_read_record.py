"""Reading what a checkpoint says about itself, from files that may come from anyone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robustseg.models import FCN, RECORD_KEY, ModelError, SegmentationModel, load_segmentation_weights, read_record

RECORD = {
    "format": 1,
    "val": {"miou": 0.25, "pixel_acc": 0.75, "images": 5, "precision": "32-true"},
    "data": {"name": "CamVid", "split": "val", "image_size": [180, 240], "window": None},
    "epoch": 3,
    "global_step": 40,
    "trained_with": {"attack": "SegPGD", "eps": "8/255", "steps": 3, "random_start": True, "transform": None},
}


def checkpoint(record, **state):
    return {"state_dict": {"model.mean": torch.zeros(1), **state}, "epoch": 3, RECORD_KEY: record}


def saved(content, path):
    torch.save(content, path)
    return path


def changed(*keys, value):
    record = copy.deepcopy(RECORD)
    inner = record
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return record


def without(key):
    return {name: value for name, value in RECORD.items() if name != key}


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        {**RECORD, "val": None, "data": None, "trained_with": None},
        changed("val", "miou", value=None),
        {**RECORD, "added_later": "unknown to this version"},
    ],
)
def test_a_record_comes_back_as_it_was_written(record, tmp_path):
    assert read_record(saved(checkpoint(record), tmp_path / "last.ckpt")) == record


@pytest.mark.parametrize(
    "record",
    [
        None,
        "text",
        {},
        {**RECORD, "format": 2},
        *(without(key) for key in RECORD),
        changed("val", value=0.3),
        changed("val", value={"miou": 0.3}),
        changed("val", "miou", value=float("nan")),
        changed("val", "miou", value=-0.1),
        changed("val", "pixel_acc", value=75.0),
        changed("val", "pixel_acc", value="75 %"),
        changed("trained_with", "eps", value=torch.tensor(0.1)),
        changed("trained_with", "eps", value=float("inf")),
        changed("data", "image_size", value=(180, 240)),
        changed("data", value={1: 2}),
    ],
    ids=str,
)
def test_what_is_not_understood_is_no_record(record, tmp_path):
    assert read_record(saved(checkpoint(record), tmp_path / "last.ckpt")) is None


def test_files_from_elsewhere_have_none(tmp_path):
    assert read_record(saved({"weight": torch.ones(1)}, tmp_path / "plain.pth")) is None
    assert read_record(saved([1, 2], tmp_path / "list.pt")) is None
    assert read_record(saved({"state_dict": {}}, tmp_path / "old.ckpt")) is None
    save_file({RECORD_KEY: torch.ones(1)}, tmp_path / "tensors.safetensors")
    assert read_record(tmp_path / "tensors.safetensors") is None
    whole = saved(checkpoint(RECORD), tmp_path / "whole.ckpt")
    (tmp_path / "half.ckpt").write_bytes(whole.read_bytes()[:-200])
    assert read_record(tmp_path / "half.ckpt") is None
    (tmp_path / "empty.ckpt").touch()
    assert read_record(tmp_path / "empty.ckpt") is None


@pytest.mark.parametrize("name", ["absent.ckpt", "folder"])
def test_a_file_that_is_not_there_is_an_error(name, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelError, match=f"{name} does not exist"):
        read_record(tmp_path / name)


class Hostile:
    """Unpickled, it would create a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_in_the_file_is_executed(tmp_path):
    path = saved(checkpoint(changed("data", "name", value=Hostile(tmp_path / "it_ran"))), tmp_path / "hostile.ckpt")
    assert read_record(path) is None
    assert not (tmp_path / "it_ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "it_ran").exists(), "the file is a live one"
    assert read_record(saved(checkpoint(changed("epoch", value=np.float64(3))), tmp_path / "numpy.ckpt")) is None


def test_weights_load_with_and_without_a_record(tmp_path):
    torch.manual_seed(0)
    model = SegmentationModel(FCN(4, "test_resnet", 8, 8))
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    for record in (RECORD, {**RECORD, "format": 99}, None):
        path = saved({"state_dict": state, RECORD_KEY: record}, tmp_path / "last.ckpt")
        other = SegmentationModel(FCN(4, "test_resnet", 8, 8))
        info = load_segmentation_weights(other, path)
        assert info.get("record") == (RECORD if record == RECORD else None)
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())
