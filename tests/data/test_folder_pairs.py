"""Pairs of images and masks with a table of classes."""

import numpy as np
import pytest

from robustseg.data import DataError, FolderPairs
from robustseg.data.lightning import SegmentationDataModule
from tests.helpers.paths import ROOT

from . import trees

EXAMPLE = ROOT / "configs" / "classes" / "example.yaml"


def pairs(root, **settings):
    return FolderPairs(str(root), **{"classes": "classes.yaml", "crop_size": (32, 32), "num_workers": 0, **settings})


def test_classes_are_known_at_once(tmp_path):
    trees.pairs_tree(tmp_path)
    data = pairs(tmp_path)
    assert data.num_classes == 3
    assert data.class_names == ["ground", "plant", "water"]
    assert data.palette == [(128, 64, 0), (0, 160, 0), (0, 0, 200)]
    assert data.datasets == {}


def test_shipped_table(tmp_path):
    data = pairs(tmp_path, classes=str(EXAMPLE))
    assert data.class_names == ["road", "vegetation", "vehicle"]
    assert dict(data.mask_format().class_of) == {0: 255, 1: 0, 2: 1, 3: 2}


def test_the_working_directory_comes_first(tmp_path, monkeypatch):
    trees.pairs_tree(tmp_path)
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    assert pairs(tmp_path).num_classes == 3
    (other / "classes.yaml").write_text("classes: [{name: only, id: 1, colour: [1, 1, 1]}]")
    assert pairs(tmp_path).num_classes == 1
    with pytest.raises(DataError, match=r"class table none\.yaml cannot be read .*data\.classes"):
        pairs(tmp_path, classes="none.yaml")


@pytest.mark.parametrize("masks", ["ids", "colours"])
def test_ids_and_colours(tmp_path, masks):
    truth = trees.pairs_tree(tmp_path, masks)
    dataset = pairs(tmp_path, masks=masks, check="all").dataset("train")
    assert [dataset.sample_id(k) for k in range(3)] == ["field/0001", "field/0002", "shore/0001"]
    for index, name in enumerate(truth["train"]):
        assert np.array_equal(dataset.read(index)[1], truth["train"][name])
    wrong = {"ids": "colours", "colours": "ids"}[masks]
    with pytest.raises(DataError, match=f"set data.masks to {masks}"):
        pairs(tmp_path, masks=wrong).dataset("train")


def test_id_that_is_not_in_the_table(tmp_path):
    trees.pairs_tree(tmp_path)
    path = tmp_path / "train/masks/field/0001.png"
    trees.save(path, trees.random_mask([1, 2, 255], (48, 64), np.random.default_rng(0)))
    with pytest.raises(
        DataError, match=r"ids 255, which are outside the 3 classes 1-2, 7 \(ground to water; void: 0\)"
    ):
        pairs(tmp_path, check="all").dataset("train")


def test_other_folders_and_names(tmp_path):
    truth = trees.pairs_tree(tmp_path)
    for old, new in (("train", "training"), ("val", "validation")):
        (tmp_path / "all").mkdir(exist_ok=True)
        (tmp_path / old / "masks").rename(tmp_path / old / "images" / "gt")
        (tmp_path / old / "images").rename(tmp_path / "all" / new)
        base = tmp_path / "all" / new
        for path in sorted((base / "gt").rglob("*.png")):
            target = base / path.relative_to(base / "gt")
            path.rename(target.with_name(f"{path.stem}_mask.png"))
        for path in sorted(base.rglob("*.jpg")):
            path.rename(path.with_name(f"{path.stem}_rgb.jpg"))
    settings = {
        "image_folder": "all/{split}",
        "mask_folder": "all/{split}",
        "image_end": "_rgb",
        "mask_end": "_mask",
        "split_names": {"train": "training", "val": "validation"},
    }
    data = pairs(tmp_path, **settings)
    assert data.sample_ids("train") == sorted(truth["train"])
    assert np.array_equal(data.dataset("val").read(0)[1], truth["val"]["field/0003"])


def test_test_split(tmp_path):
    trees.pairs_tree(tmp_path)
    assert pairs(tmp_path).test_split() == "val"
    (tmp_path / "test/images").mkdir(parents=True)
    assert pairs(tmp_path).test_split() == "test"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"image_folder": "images"}, r"image_folder = 'images' is the same folder for every split"),
        ({"mask_folder": "{part}/masks"}, r"mask_folder = '\{part\}/masks' has other braces"),
        ({"mask_folder": "{split}/images"}, r"mask_folder .* is image_folder as well"),
        ({"split_names": {"valid": "x"}}, r"split_names has the key 'valid'"),
        ({"split_names": {"val": "train"}}, r"train and val the same name"),
    ],
)
def test_arguments(tmp_path, settings, expected):
    trees.pairs_tree(tmp_path)
    with pytest.raises(ValueError, match=expected):
        pairs(tmp_path, **settings)


ROAD = "{name: road, id: 1, colour: [1, 2, 3]}"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("", "has no list of classes"),
        ("classes: []", "has no list of classes"),
        ("classes: {road: 1}", "has no list of classes"),
        ("- " + ROAD, "has no list of classes"),
        ("classes: [", "is no YAML"),
        ("classes: [road]", "row 1 is 'road'"),
        ("classes: [{id: 1, colour: [1, 2, 3]}]", "row 1 (without name) has no name"),
        ("classes: [{name: road, colour: [1, 2, 3]}]", "row 1 (road) has no id"),
        ("classes: [{name: road, id: 1}]", "row 1 (road) has no colour"),
        ("classes: [{name: road, id: 1, color: [1, 2, 3]}]", "unknown key 'color': did you mean colour?"),
        ("classes: [{name: no, id: 1, colour: [1, 2, 3]}]", "has the name False"),
        ("classes: [{name: road, id: one, colour: [1, 2, 3]}]", "row 1 (road) has the id 'one'"),
        ("classes: [{name: road, id: -1, colour: [1, 2, 3]}]", "has the id -1"),
        ("classes: [{name: road, id: true, colour: [1, 2, 3]}]", "has the id True"),
        ("classes: [{name: road, id: 1, colour: [1, 2, 256]}]", "has the colour [1, 2, 256]"),
        ("classes: [{name: road, id: 1, colour: red}]", "has the colour 'red'"),
        ("classes: [{name: road, id: 1, colour: [1, 2, 3], ignore: 1}]", "has ignore: 1"),
        ("classes: [{name: road, id: 1, colour: [1, 2, 3], ignore: true}]", "0 classes are not ignored"),
        (f"classes: [{ROAD}, {{name: car, id: 1, colour: [1, 2, 4]}}]", "rows 1 and 2 have the same id 1"),
        (f"classes: [{ROAD}, {{name: road, id: 2, colour: [1, 2, 4]}}]", "rows 1 and 2 have the same name 'road'"),
        (f"classes: [{ROAD}, {{name: car, id: 2, colour: [1, 2, 3]}}]", "the same colour [1, 2, 3]"),
    ],
)
def test_faulty_table(tmp_path, table, expected):
    path = tmp_path / "classes.yaml"
    path.write_text(table)
    with pytest.raises(DataError) as caught:
        pairs(tmp_path)
    message = str(caught.value)
    assert expected in message
    assert str(path) in message
    assert "\n" not in message


def test_too_many_classes(tmp_path):
    rows = "".join(f"  - {{name: c{k}, id: {k}, colour: [{k // 256}, {k % 256}, 0]}}\n" for k in range(256))
    (tmp_path / "classes.yaml").write_text(f"classes:\n{rows}")
    with pytest.raises(DataError, match="256 classes are not ignored; expected 1 to 255"):
        pairs(tmp_path)


def test_table_that_is_no_text(tmp_path):
    (tmp_path / "classes.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="is no YAML"):
        pairs(tmp_path)


def test_images_without_masks(tmp_path):
    """`mask_folder: null` gives the same images, and void."""
    trees.pairs_tree(tmp_path)
    with_masks = pairs(tmp_path, image_size=(24, 32))
    data = pairs(tmp_path, mask_folder=None, image_size=(24, 32), check="all")
    assert (with_masks.labelled, data.labelled) == (True, False)
    for split in ("train", "val"):
        assert data.sample_ids(split) == with_masks.sample_ids(split)
    sample = data.dataset("val")[0]
    assert sample.image.equal(with_masks.dataset("val")[0].image)
    assert (sample.target == 255).all()
    assert sample.target.shape == sample.image.shape[1:]
    assert data.digest("val") == pairs(tmp_path, mask_folder=None, image_size=(24, 32)).digest("val")
    assert data.digest("val") != with_masks.digest("val")
    assert data.dataset("val").can_be_kept()
    with pytest.raises(DataError, match="have no masks to count"):
        data.class_pixels()


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_there_is_no_training_without_masks(tmp_path, stage):
    trees.pairs_tree(tmp_path)
    with pytest.raises(DataError, match="training and validation need them"):
        SegmentationDataModule(pairs(tmp_path, mask_folder=None)).setup(stage)
    SegmentationDataModule(pairs(tmp_path, mask_folder=None)).setup("test")


@pytest.mark.parametrize("check", ["headers", "all", "none"])
def test_bad_images_without_masks_are_named(tmp_path, check):
    trees.pairs_tree(tmp_path)
    path = tmp_path / "val" / "images" / "field" / "0003.jpg"
    path.write_bytes(b"no picture")
    data = pairs(tmp_path, mask_folder=None, check=check)
    with pytest.raises(DataError, match=r"0003\.jpg"):
        _ = data.dataset("val")[0]
