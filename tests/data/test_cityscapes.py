"""Cityscapes' two kinds of masks."""

import shutil

import numpy as np
import pytest

from robustseg.data import Cityscapes, DataError

from . import trees
from .published import assert_holds, error_of, module


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds", "both"])
@pytest.mark.parametrize("label_ids", ["auto", "labelIds", "labelTrainIds"])
def test_cityscapes_kinds(tmp_path, kind, label_ids):
    truth = trees.cityscapes_tree(tmp_path, kind)
    if label_ids not in ("auto", kind) and kind != "both":
        message = error_of("Cityscapes", tmp_path, label_ids=label_ids)
        assert f"holds no _gtFine_{label_ids}.png file" in message
        return
    data = module("Cityscapes", tmp_path, label_ids=label_ids)
    read = (kind if kind != "both" else "labelTrainIds") if label_ids == "auto" else label_ids
    for split in ("train", "val"):
        assert_holds(data.dataset(split), truth[split])
        assert all(pair.mask.name.endswith(f"_gtFine_{read}.png") for pair in data.dataset(split).pairs)
    assert data.sample_ids("train")[0] == "aachen_000000_000019"


def test_cityscapes_reads_label_ids_where_train_ids_are_incomplete(tmp_path):
    truth = trees.cityscapes_tree(tmp_path)
    next((tmp_path / "gtFine/train/zurich").glob("*labelTrainIds.png")).unlink()
    data = module("Cityscapes", tmp_path)
    assert_holds(data.dataset("train"), truth["train"])
    assert data.dataset("train").pairs[0].mask.name.endswith("labelIds.png")
    assert "labelTrainIds.png) for the image zurich_000000_000019" in error_of(
        "Cityscapes", tmp_path, label_ids="labelTrainIds"
    )
    with pytest.raises(ValueError, match=r"data\.label_ids"):
        module("Cityscapes", tmp_path, label_ids="ids")


def test_label_ids_in_place_of_train_ids(tmp_path):
    trees.cityscapes_tree(tmp_path, "labelIds")
    for path in (tmp_path / "gtFine").rglob("*labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    message = error_of("Cityscapes", tmp_path)
    assert "Cityscapes label ids in place of train ids" in message
    assert "data.label_ids" in message


def test_train_ids_in_place_of_label_ids(tmp_path):
    """All of them are label ids too: only 255, which is none, tells."""
    trees.cityscapes_tree(tmp_path, "labelTrainIds")
    for path in (tmp_path / "gtFine").rglob("*labelTrainIds.png"):
        path.rename(path.with_name(path.name.replace("labelTrainIds", "labelIds")))
    message = error_of("Cityscapes", tmp_path)
    assert "holds train ids (0-18 and 255) in place of label ids" in message
    assert "labelTrainIds.png" in message
    with pytest.raises(DataError, match="holds train ids"):
        module("Cityscapes", tmp_path).dataset("train")
    late = module("Cityscapes", tmp_path, check="none").dataset("train")
    with pytest.raises(DataError, match="holds train ids"):
        late[0]


@pytest.mark.parametrize("wrong", range(3))
def test_one_file_of_train_ids_among_label_ids(tmp_path, wrong):
    trees.cityscapes_tree(tmp_path)
    path = sorted((tmp_path / "gtFine/train").rglob("*labelIds.png"))[wrong]
    shutil.copy(path.with_name(path.name.replace("labelIds", "labelTrainIds")), path)
    with pytest.raises(DataError, match=f"{path} holds the ids 255, .* the file holds train ids"):
        module("Cityscapes", tmp_path, label_ids="labelIds").dataset("train")


def test_255_among_label_ids_is_not_called_train_ids(tmp_path):
    trees.cityscapes_tree(tmp_path, "labelIds")
    path = next((tmp_path / "gtFine/train").rglob("*labelIds.png"))
    trees.save(path, trees.random_mask([7, 26, 255], (48, 64), np.random.default_rng(0)))
    message = error_of("Cityscapes", tmp_path)
    assert "holds the ids 255" in message
    assert "train ids" not in message


def test_the_test_split_is_read(tmp_path):
    """Its masks hold none of the classes."""
    truth = trees.cityscapes_tree(tmp_path, "labelIds")
    assert_holds(module("Cityscapes", tmp_path).dataset("test"), truth["test"])


def test_colours_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"masks = 'colours': .* polegroup.* set data\.masks to ids"):
        module("Cityscapes", tmp_path, masks="colours")


def test_no_advice_to_read_colours(tmp_path):
    trees.cityscapes_tree(tmp_path, "labelIds")
    colours = np.array([colour for _, colour in Cityscapes.classes], np.uint8)
    path = next((tmp_path / "gtFine/train").rglob("*labelIds.png"))
    trees.save(path, colours[np.arange(48 * 64).reshape(48, 64) % 19])
    message = error_of("Cityscapes", tmp_path)
    assert "its colours are those of the classes" in message
    assert "data.masks" not in message


def test_cityscapes_instances_are_named(tmp_path):
    trees.cityscapes_tree(tmp_path, "labelIds")
    for path in (tmp_path / "gtFine").rglob("*instanceIds.png"):
        shutil.copy(path, path.with_name(path.name.replace("instanceIds", "labelIds")))
    assert "numbers above 255 are objects" in error_of("Cityscapes", tmp_path)
