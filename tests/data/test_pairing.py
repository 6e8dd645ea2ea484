"""Files that are found, paired and listed; none is passed over in silence."""

import unicodedata
import warnings

import numpy as np
import pytest
from PIL import Image

from robustseg.data import DataError, FolderPairs, SyntheticScenes, pair_by_stem
from robustseg.data.pairing import common_patterns

from . import trees
from .published import error_of, module

BLANK = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
GROUND = Image.fromarray(np.ones((4, 4), np.uint8))


def made(root, images, masks, split="train"):
    for kind, names, picture in (("images", images, BLANK), ("masks", masks, GROUND)):
        for name in names:
            path = root / split / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            known = path.suffix.lower() in Image.registered_extensions()
            picture.save(path, format=None if known else "PNG")
    (root / "classes.yaml").write_text(trees.PAIR_CLASSES)
    return root


def pairs(root, split="train", **settings):
    settings = {"classes": "classes.yaml", "crop_size": (4, 4), "num_workers": 0, **settings}
    return FolderPairs(str(root), **settings)


def names(root, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return pairs(root, **settings).sample_ids("train")


def test_images_of_every_readable_suffix(tmp_path):
    """The case of the report: one sample of four."""
    images = ["a.png", "b.tif", "c.TIFF", "d.bmp", "e.JPG", "f.webp", "g.Jpeg"]
    masks = ["a.png", "b.tif", "c.TIF", "d.bmp", "e.PNG", "f.pgm", "g.TIFF"]
    assert names(made(tmp_path, images, masks), check="all") == list("abcdefg")


@pytest.mark.parametrize(
    ("images", "masks", "said"),
    [
        (
            ["a.png", "b.jp2"],
            ["a.png", "b.png"],
            "holds 1 .jp2 files such as b.jp2 (convert them to PNG or JPEG)",
        ),
        (["a.png", "b.avif", "c.AVIF"], ["a.png"], "images holds 1 .avif files such as b.avif"),
        (["a.png"], ["a.png", "b.webp"], "masks holds 1 .webp files such as b.webp (export masks as PNG from their"),
        (["a.png", "b.png"], ["a.png", "b.npy"], "masks holds 1 .npy files such as b.npy (convert them to PNG)"),
        (
            ["a.png", "B.png"],
            ["a.png", "b.png"],
            "image B: add it, or remove the image (b differs",
        ),
        (["a.png", "b.png"], ["a.png", "b.PNG", "b.bmp"], "are both called b: keep one of them"),
    ],
)
def test_pictures_that_would_be_missing_are_errors(tmp_path, images, masks, said):
    made(tmp_path, [], [])
    for kind, files in (("images", images), ("masks", masks)):
        (tmp_path / "train" / kind).mkdir(parents=True, exist_ok=True)
        for name in files:
            (BLANK if kind == "images" else GROUND).save(tmp_path / "train" / kind / name, format="PNG")
    assert said in error_of("FolderPairs", tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden.png", "sub/.b.jpg", "b.json", "Thumbs.db"])
def test_other_files_are_named_in_a_line(tmp_path, name):
    made(tmp_path, ["a.png", "sub/b.png"], ["a.png", "sub/b.png"])
    (tmp_path / "train/images" / name).write_bytes(b"x")
    said = f"images: passed over 1 that are no image or mask: {name.rsplit('/', 1)[-1]}."
    with pytest.warns(UserWarning, match=said.replace(".", r"\.")):
        assert pairs(tmp_path).sample_ids("train") == ["a", "sub/b"]


def test_folders_that_are_not_looked_into_are_named(tmp_path):
    trees.camvid_tree(tmp_path)
    trees.save(tmp_path / "train/more/x.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.warns(UserWarning, match=r"train: passed over 1 that are no image or mask: more/\."):
        assert len(module("CamVid", tmp_path).dataset("train")) == 2


def test_names_outside_of_a_pattern_are_named(tmp_path):
    made(tmp_path, ["img_a.png", "b.png"], ["a_mask.png", "a_instances.png"])
    settings = {"image_name": "img_{name}", "mask_name": "{name}_mask"}
    with pytest.warns(UserWarning, match=r"passed over 2 .*: a_instances\.png, b\.png"):
        assert pairs(tmp_path, **settings).sample_ids("train") == ["a"]


def test_names_that_differ_in_case_only_are_named(tmp_path):
    made(tmp_path, ["a.png", "A.png"], ["a.png", "A.png"])
    with pytest.warns(UserWarning, match=r"the names A and a differ in upper and lower case only \(1 such"):
        assert pairs(tmp_path).sample_ids("train") == ["A", "a"]
    made(tmp_path / "b", [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")], ["é.png"])
    assert "are both called é" in error_of("FolderPairs", tmp_path / "b")


@pytest.mark.parametrize(
    ("images", "masks", "settings"),
    [
        (["x_leftImg8bit.png"], ["x_gtFine.png"], {"image_name": "{name}_leftImg8bit", "mask_name": "{name}_gtFine"}),
        (["img_x.jpg"], ["lbl_x.png"], {"image_name": "img_{name}", "mask_name": "lbl_{name}"}),
        (["d/a-x-b.jpg"], ["d/x.png"], {"image_name": "a-{name}-b"}),
        (["x_rgb.jpg"], ["x.png"], {"image_end": "_rgb"}),
        (["x.jpg"], ["x_m.png"], {"mask_end": "_m"}),
    ],
)
def test_patterns_of_names(tmp_path, images, masks, settings):
    made(tmp_path, images, masks)
    assert names(tmp_path, **settings) == ["d/x" if "/" in images[0] else "x"]


def test_one_folder_for_images_and_masks(tmp_path):
    made(tmp_path, ["x_rgb.jpg", "y_rgb.jpg"], [])
    for name in "xy":
        GROUND.save(tmp_path / f"train/images/{name}_mask.png")
    settings = {"mask_folder": "{split}/images", "image_name": "{name}_rgb", "mask_name": "{name}_mask"}
    assert names(tmp_path, **settings) == ["x", "y"]


def test_a_parallel_tree(tmp_path):
    truth = trees.pairs_tree(tmp_path)
    for old, new in (("images", "images"), ("masks", "annotations")):
        for split in ("train", "val"):
            (tmp_path / new).mkdir(exist_ok=True)
            (tmp_path / split / old).rename(tmp_path / new / split)
    data = pairs(tmp_path, image_folder="images/{split}", mask_folder="annotations/{split}")
    assert data.sample_ids("train") == sorted(truth["train"])


def test_unpaired_names_come_with_their_pattern(tmp_path):
    made(tmp_path, ["img_01.jpg", "img_02.jpg"], ["gt_01_m.png", "gt_02_m.png"])
    assert "(all names pair up with data.image_name to 'img_{name}' and data.mask_name to 'gt_{name}_m')" in error_of(
        "FolderPairs", tmp_path
    )
    assert common_patterns(["a1", "a2"], ["b1", "b3"]) is None
    assert common_patterns(["img_1", "img_2"], ["seg_1", "seg_2"]) == ("img_{name}", "seg_{name}")
    assert common_patterns(["img1", "img2"], ["seg1", "seg2"]) == ("img{name}", "seg{name}")
    assert common_patterns(["a_rgb", "b_rgb"], ["a_b", "b_b"]) == ("{name}_rgb", "{name}_b")
    assert common_patterns(["a"], []) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"image_name": "img"}, r"image_name = 'img' is no pattern of file names"),
        ({"mask_name": "{name}{name}"}, r"mask_name = '\{name\}\{name\}' is no pattern"),
        ({"mask_name": "a/{name}"}, r"mask_name = 'a/\{name\}' is no pattern"),
        ({"image_name": "a{name}", "image_end": "_b"}, r"leave data\.image_end out"),
        ({"split_files": {"valid": "x"}}, r"split_files has the key 'valid'"),
        ({"image_folder": "images"}, r"or name the lists of the splits in data\.split_files"),
    ],
)
def test_settings_that_cannot_be(tmp_path, settings, said):
    made(tmp_path, ["a.png"], ["a.png"])
    with pytest.raises(ValueError, match=said):
        pairs(tmp_path, **settings)
    with pytest.raises(ValueError, match=r"is no pattern of file names .* such as \{name\}_mask"):
        pair_by_stem(tmp_path / "train/images", tmp_path / "train/masks", "x", True, "_rgb")


LISTED = {
    "image_folder": "images",
    "mask_folder": "masks",
    "split_files": {"train": "train.txt", "val": "lists/val.txt"},
}


@pytest.fixture
def listed(tmp_path):
    for kind, suffix, picture in (("images", "jpg", BLANK), ("masks", "png", GROUND)):
        for name in ("a", "b", "sub/c", "d e", "more"):
            path = tmp_path / kind / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    BLANK.save(tmp_path / "images/without.jpg")
    (tmp_path / "classes.yaml").write_text(trees.PAIR_CLASSES)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/val.txt").write_text("d e\n")
    return tmp_path


def test_lists_of_the_splits(listed):
    text = "\ufeff# the training images\r\nsub/c.jpg\r\n\r\n  a\r\nb.PNG\r\n"
    (listed / "train.txt").write_bytes(text.encode())
    assert names(listed, **LISTED) == ["a", "b", "sub/c"]
    data = pairs(listed, **LISTED)
    assert data.sample_ids("val") == ["d e"]
    assert data.test_split() == "val"
    (listed / "test.txt").write_text("more")
    split_files = {**LISTED["split_files"], "test": str(listed / "test.txt")}
    assert pairs(listed, **{**LISTED, "split_files": split_files}).test_split() == "test"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\nb\na\n", "names a twice, in lines 1 and 3"),
        ("a\na.jpg\n", "names a twice, as a and as a.jpg"),
        ("a\nx\ny\n", "names 3 samples, of 2 of which there is no image: x, y; names are relative to the image folder"),
        ("a\nwithout\n", "of 1 of which there is no mask: without"),
        ("images/a.jpg\n", "no image: images/a; names are relative to the image folder, as a"),
        ("d e\n", "both name d e: a sample belongs to training or to validation"),
        ("# nothing\n\n", "names no sample"),
        ("sub\\c\n", "line 1 is 'sub\\\\c'"),
        (None, "cannot be read"),
        (b"\xff\xfea\0", "is no text in UTF-8"),
    ],
)
def test_faulty_lists(listed, text, said):
    if text is not None:
        (listed / "train.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        pairs(listed, **LISTED).dataset("train")
    assert said in str(caught.value)
    assert "train.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_ids_and_colours_of_a_class(tmp_path):
    (tmp_path / "classes.yaml").write_text(
        "classes:\n"
        "  - {name: ground, id: [1, 4, 300], colour: [[128, 64, 0], [1, 2, 3]]}\n"
        "  - {name: rest, id: 7, colour: [0, 0, 200]}\n"
        "  - {name: unknown, id: [0, 255], colour: [0, 0, 0], ignore: true}\n"
    )
    data = pairs(tmp_path)
    assert data.class_names == ["ground", "rest"]
    assert data.palette == [(128, 64, 0), (0, 0, 200)]
    ids = np.array([[1, 4, 300, 7, 0, 255]])
    Image.fromarray(ids.astype(np.uint16)).save(tmp_path / "x.png")
    assert data.mask_format().read(tmp_path / "x.png").tolist() == [[0, 0, 0, 1, 255, 255]]
    colours = np.array([[(128, 64, 0), (1, 2, 3), (0, 0, 200), (0, 0, 0)]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "y.png")
    assert pairs(tmp_path, masks="colours").mask_format().read(tmp_path / "y.png").tolist() == [[0, 0, 1, 255]]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            "{name: a, id: [1, 2], colour: [1, 2, 3]}, {name: b, id: 2, colour: [4, 5, 6]}",
            "1 and 2 have the same id 2",
        ),
        ("{name: a, id: [1, 1], colour: [1, 2, 3]}", "row 1 has twice the id 1"),
        ("{name: a, id: 1, colour: [[1, 2, 3], [1, 2, 3]]}", "row 1 has twice the colour [1, 2, 3]"),
        ("{name: a, id: 1, colour: [1, 2, 3]}, {name: a, id: 2, colour: [4, 5, 6]}", "write one row with id: [1, 2]"),
        ("{name: a, id: [], colour: [1, 2, 3]}", "row 1 (a) has the id []"),
        ("{name: a, id: [1, x], colour: [1, 2, 3]}", "row 1 (a) has the id [1, 'x']"),
        ("{name: a, id: 1, colour: [[1, 2, 3], [1, 2]]}", "row 1 (a) has the colour [1, 2]"),
        ("{name: a, id: 1, id: 2, colour: [1, 2, 3]}", "classes[0].id is given twice, in lines 1 and 1"),
        ("{name: a, id: 1, colour: [064, 000, 128]}", "line 1 has 064, which is 52 in YAML: leave the zero out"),
        ("{name: a, id: 0x" + "f" * 4000 + ", colour: [1, 2, 3]}", "the id a number of thousands of digits"),
        (
            "{name: a, id: 1:00" + ":59" * 3000 + ", colour: [1, 2, 3]}",
            "a value is none of its type (a number of 9,004",
        ),
        ("{name: a, id: " + "9" * 5000 + ", colour: [1, 2, 3]}", "is no YAML (a value is none of its type"),
        ("{name: 2001-99-99, id: 1, colour: [1, 2, 3]}", "a value is none of its type (month must be in 1..12)"),
        ("{name: a, id: !!int '', colour: [1, 2, 3]}", "a value is none of its type (string index out of range)"),
    ],
)
def test_a_class_or_an_id_in_two_places(tmp_path, rows, said):
    (tmp_path / "classes.yaml").write_text(f"classes: [{rows}]")
    with pytest.raises(DataError) as caught:
        pairs(tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize("one", [1, 255])
def test_the_table_of_a_binary_mask_is_written_out(tmp_path, one):
    (tmp_path / "classes.yaml").write_text("classes: [{name: a, id: 0, colour: [0, 0, 0]}]")
    mask = np.array([[0, one]], np.uint8)
    Image.fromarray(mask).save(tmp_path / "x.png")
    with pytest.raises(DataError) as caught:
        pairs(tmp_path).mask_format().read(tmp_path / "x.png")
    table = str(caught.value).split("(data.classes) is ")[1]
    assert table == (
        "classes: [{name: background, id: 0, colour: [0, 0, 0]}, "
        f"{{name: object, id: {one}, colour: [255, 255, 255]}}]"
    )
    (tmp_path / "classes.yaml").write_text(table)
    assert pairs(tmp_path).mask_format().read(tmp_path / "x.png").tolist() == [[0, 1]]


def test_counts_of_the_splits(tmp_path):
    trees.camvid_tree(tmp_path)
    data = module("CamVid", tmp_path)
    assert data.counts() == {"train": 2, "val": 1, "test": 1}
    assert data.datasets == {}
    for split in ("train", "test"):
        data.dataset(split)
    assert data.summary() == "CamVid: images: train 2, test 1; scored on test"
    (tmp_path / "trainannot").rename(tmp_path / "elsewhere")
    assert module("CamVid", tmp_path).counts() == {"val": 1, "test": 1}
    assert SyntheticScenes(train_length=3, val_length=2, test_length=1, image_size=(32, 32)).counts() == {
        "train": 3,
        "val": 2,
        "test": 1,
    }
