"""The published data sets: their layouts read back with exact ids, and what is said when they are not there."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from robustseg.data import ADE20K, BDD100K, Cityscapes, COCOStuff, DataError, PascalContext, PascalVOC
from robustseg.data.catalogue import find_dataset

from . import trees
from .published import MODULES, PUBLISHED, assert_holds, error_of, module


@pytest.mark.parametrize("name", MODULES)
def test_ids_are_exact_and_images_are_the_files(tmp_path, name):
    truth = trees.TREES[name](tmp_path)
    data = module(name, tmp_path, check="all")
    for split in ("train", "val"):
        assert_holds(data.dataset(split), truth[split])
    assert data.test_split() == ("test" if name == "CamVid" else "val")
    assert len(set(data.sample_ids("train")) | set(data.sample_ids("val"))) == sum(map(len, list(truth.values())[:2]))
    dataset = data.dataset("train")
    for index, pair in enumerate(dataset.pairs):
        with Image.open(pair.image) as picture:
            expected = np.asarray(picture.convert("RGB"))
        assert np.array_equal((dataset[index].image * 255).round().permute(1, 2, 0).numpy().astype(np.uint8), expected)
    assert not torch.equal(dataset[0].image, dataset[1].image)


@pytest.mark.parametrize("name", PUBLISHED)
def test_docstring_error_and_catalogue_say_the_same_layout(tmp_path, name):
    text = " ".join(MODULES[name].__doc__.replace("``", "").replace("- ", "").split())
    for line in MODULES[name].layout:
        assert line in text
    for size in find_dataset(name).split_sizes.values():
        assert str(size) in text
    message = error_of(name, tmp_path / "nowhere")
    assert MODULES[name].expected() in message
    assert str(tmp_path / "nowhere") in message
    assert "data.root" in message
    (tmp_path / "empty").mkdir()
    assert MODULES[name].expected() in error_of(name, tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("PascalVOC", "VOCdevkit/VOC2012/SegmentationClass"),
        ("Cityscapes", "leftImg8bit/train"),
        ("Cityscapes", "gtFine"),
        ("BDD100K", "bdd100k/labels/sem_seg"),
        ("BDD100K", "bdd100k"),
        ("ADE20K", "ADEChallengeData2016/images/training"),
        ("ADE20K", "ADEChallengeData2016"),
        ("CamVid", "train"),
        ("FolderPairs", "train/masks"),
    ],
)
def test_folder_in_the_wrong_case(tmp_path, name, folder):
    trees.TREES[name](tmp_path)
    path = tmp_path / folder
    path.rename(path.with_name(path.name.swapcase()))
    assert f"rename {path.name.swapcase()} to {path.name}" in error_of(name, tmp_path)


@pytest.mark.parametrize("name", ["Cityscapes", "BDD100K", "ADE20K", "CamVid", "FolderPairs"])
def test_image_without_mask_and_mask_without_image(tmp_path, name):
    trees.TREES[name](tmp_path)
    pair = module(name, tmp_path).dataset("train").pairs[0]
    for path in pair.mask.parent.glob("*labelTrainIds.png"):
        path.unlink()  # the other kind is read
    mask = module(name, tmp_path).dataset("train").pairs[0].mask
    content = mask.read_bytes()
    mask.unlink()
    message = error_of(name, tmp_path)
    assert "no mask in" in message
    assert pair.id in message
    mask.write_bytes(content)
    pair.image.unlink()
    assert f"mask {pair.id}" in error_of(name, tmp_path)


@pytest.mark.parametrize("name", MODULES)
def test_mask_of_another_size_and_empty_folder(tmp_path, name):
    trees.TREES[name](tmp_path)
    mask = module(name, tmp_path).dataset("train").pairs[1].mask
    with Image.open(mask) as picture:
        picture.resize((60, 48), Image.Resampling.NEAREST).save(mask)
    message = error_of(name, tmp_path, check="headers")
    assert f"{mask} is 60x48 pixels" in message
    assert "64x48" in message
    for path in [pair.image for pair in module(name, tmp_path).dataset("val").pairs]:
        path.unlink()
    message = error_of(name, tmp_path, "val")
    assert "holds no" in message or "there is no file" in message


def test_crop_size_is_asked_for():
    with pytest.raises(ValueError, match="crop_size"):
        Cityscapes("x")
    with pytest.raises(ValueError, match=r"data\.check"):
        Cityscapes("x", check="header", crop_size=(32, 32))
    with pytest.raises(ValueError, match=r"data\.masks"):
        Cityscapes("x", masks="rgb", crop_size=(32, 32))


@pytest.mark.parametrize("name", PUBLISHED)
def test_class_tables(name):
    classes = MODULES[name].classes
    assert len({label for label, _ in classes}) == len(classes)
    assert all(label == label.strip() and label for label, _ in classes)
    colours = [colour for _, colour in classes]
    shared = {"ADE20K": 1}.get(name, 0)
    assert len(set(colours)) == len(colours) - shared
    assert all(len(colour) == 3 and 0 <= min(colour) <= max(colour) <= 255 for colour in colours)


def test_official_classes():
    voc, city, ade = PascalVOC.classes, Cityscapes.classes, ADE20K.classes
    assert (len(voc), len(city), len(ade)) == (21, 19, 150)
    palette = trees.voc_palette()
    assert [colour for _, colour in voc] == [tuple(palette[3 * k : 3 * k + 3]) for k in range(21)]
    assert voc[20] == ("tvmonitor", (0, 64, 128))
    assert PascalVOC.void_colours == ((224, 224, 192),)
    assert (city[0], city[13], city[18]) == (
        ("road", (128, 64, 128)),
        ("car", (0, 0, 142)),
        ("bicycle", (119, 11, 32)),
    )
    assert BDD100K.classes == city
    assert (ade[0], ade[6], ade[12], ade[149]) == (
        ("wall", (120, 120, 120)),
        ("road", (140, 140, 140)),
        ("person", (150, 5, 61)),
        ("flag", (92, 0, 255)),
    )


def test_coco_stuff(tmp_path):
    """Names and ids as in its labels.txt: label k is k-1 in the masks."""
    names = [name for name, _ in COCOStuff.classes]
    assert (len(names), len(set(names))) == (171, 171)
    assert [names[k] for k in (0, 10, 11, 79, 80, 81, 170)] == [
        "person", "fire hydrant", "stop sign", "toothbrush", "banner", "blanket", "wood"
    ]  # fmt: skip
    class_of = module("COCOStuff", tmp_path).mask_format().class_of
    assert {number: names[class_of[number]] for number in (0, 12, 89, 91, 148, 181)} == {
        0: "person", 12: "stop sign", 89: "toothbrush", 91: "banner", 148: "road", 181: "wood"
    }  # fmt: skip
    assert set(range(182)) - class_of.keys() == set(trees.COCO_ABSENT)
    for number, (kind, folders) in enumerate(
        [
            ("labelTrainIds", ()),
            ("published", ("", "stuffthingmaps")),
            ("published", ("coco_stuff164k/images", "coco_stuff164k/annotations")),
        ]
    ):
        truth = trees.coco_stuff_tree(tmp_path / str(number), kind, folders=folders)
        assert_holds(module("COCOStuff", tmp_path / str(number), check="all").dataset("train"), truth["train"])
    trees.coco_stuff_tree(tmp_path / "both")
    truth = trees.coco_stuff_tree(tmp_path / "both", "labelTrainIds")
    assert_holds(module("COCOStuff", tmp_path / "both", check="all").dataset("val"), truth["val"])
    trees.save(next((tmp_path / "0/annotations/val2017").iterdir()), np.full(trees.SIZE, 181, np.uint8))
    with pytest.raises(DataError, match="holds the ids 181, which are outside the 171 classes 0-170"):
        module("COCOStuff", tmp_path / "0", check="all").dataset("val")


def test_pascal_context_with_its_background(tmp_path):
    truth = trees.context_tree(tmp_path)
    data = module("PascalContext", tmp_path, background=True)
    assert (data.num_classes, data.class_names[:2], data.class_names[-1]) == (60, ["background", "aeroplane"], "wood")
    counted = {name: np.where(mask == 255, 0, mask + 1) for name, mask in truth["val"].items()}
    assert_holds(data.dataset("val"), counted)
    assert [name for name, _ in PascalContext.classes][:20:19] == ["aeroplane", "tvmonitor"]
    for name in ("PascalContext", "COCOStuff"):
        with pytest.raises(ValueError, match=f"the masks of {name} are published as numbers"):
            module(name, tmp_path, masks="colours")


# the real ones, where they are


def real(name, variable, **settings):
    root = os.environ.get(variable)
    if not root:
        pytest.skip(f"no {name}: set {variable} to its folder")
    return module(name, root, check="none", **settings)


@pytest.mark.parametrize("name", ["PascalVOC", "Cityscapes", "BDD100K", "ADE20K"])
def test_real_counts(name):
    data = real(name, {"PascalVOC": "ROBUSTSEG_VOC"}.get(name, f"ROBUSTSEG_{name.upper()}"))
    for split in ("train", "val"):
        assert len(data.sample_ids(split)) == find_dataset(name).split_sizes[split]
        data.dataset(split)[0]


def test_real_count_of_trainaug():
    sbd = os.environ.get("ROBUSTSEG_SBD")
    if not sbd:
        pytest.skip("no SBD: set ROBUSTSEG_SBD to the folder that holds benchmark_RELEASE")
    data = real("PascalVOC", "ROBUSTSEG_VOC", train_list="trainaug", sbd_root=sbd)
    assert len(data.sample_ids("train")) == find_dataset("PascalVOC").split_sizes["trainaug"] == 10582
