"""The published data sets: their layouts read back with exact ids, and what is said when they are not there."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustseg.data import ADE20K, BDD100K, CamVid, Cityscapes, DataError, FolderPairs, PascalVOC
from robustseg.data.sbd import read_sbd_mask

from . import trees

MODULES = {module.__name__: module for module in (ADE20K, BDD100K, CamVid, Cityscapes, FolderPairs, PascalVOC)}
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


@pytest.mark.parametrize("check", ["headers", "all"])
@pytest.mark.parametrize("name", MODULES)
def test_ids_are_exact(tmp_path, name, check):
    truth = trees.TREES[name](tmp_path)
    data = module(name, tmp_path, check=check)
    for split in ("train", "val"):
        assert_holds(data.dataset(split), truth[split])
    assert data.test_split() == ("test" if name == "CamVid" else "val")
    assert len(set(data.sample_ids("train")) | set(data.sample_ids("val"))) == sum(map(len, list(truth.values())[:2]))


@pytest.mark.parametrize("name", MODULES)
def test_images_are_the_files(tmp_path, name):
    trees.TREES[name](tmp_path)
    dataset = module(name, tmp_path).dataset("train")
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
    message = error_of(name, tmp_path / "nowhere")
    assert MODULES[name].expected() in message
    assert str(tmp_path / "nowhere") in message
    assert "data.root" in message
    (tmp_path / "empty").mkdir()
    assert MODULES[name].expected() in error_of(name, tmp_path / "empty")


@pytest.mark.parametrize("name", PUBLISHED)
def test_docstring_names_the_published_counts(name):
    for size in MODULES[name].split_sizes.values():
        assert str(size) in MODULES[name].__doc__


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
def test_empty_folder(tmp_path, name):
    trees.TREES[name](tmp_path)
    for path in [pair.image for pair in module(name, tmp_path).dataset("val").pairs]:
        path.unlink()
    message = error_of(name, tmp_path, "val")
    assert "holds no" in message or "there is no file" in message


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("check", ["none", "headers"])
def test_mask_of_another_size(tmp_path, name, check):
    trees.TREES[name](tmp_path)
    mask = module(name, tmp_path).dataset("train").pairs[1].mask
    with Image.open(mask) as picture:
        picture.resize((60, 48), Image.Resampling.NEAREST).save(mask)
    message = error_of(name, tmp_path, check=check)
    assert f"{mask} is 60x48 pixels" in message
    assert "64x48" in message


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


# PASCAL VOC


@pytest.mark.parametrize("place", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_root_may_be_any_folder_on_the_way(tmp_path, place):
    truth = trees.voc_tree(tmp_path)
    assert_holds(module("PascalVOC", tmp_path / place).dataset("val"), truth["val"])


def augmented(voc, sbd):
    """SBD's two splits and VOC's training split without VOC's validation split, VOC's masks where there are two."""
    union = {**sbd["train"], **sbd["val"], **voc["train"]}
    return {name: mask for name, mask in union.items() if name not in voc["val"]}


@pytest.mark.parametrize("place", ["", "benchmark_RELEASE", "benchmark_RELEASE/dataset"])
def test_trainaug_reads_sbd(tmp_path, place):
    voc, sbd = trees.voc_tree(tmp_path), trees.sbd_tree(tmp_path / "sbd")
    # SBD's images are VOC's, where VOC has them
    other = np.full((48, 64, 3), 77, np.uint8)
    trees.save(tmp_path / "VOCdevkit/VOC2012/JPEGImages/2008_000002.jpg", other)
    data = module("PascalVOC", tmp_path, train_list="trainaug", sbd_root=str(tmp_path / "sbd" / place), check="all")
    dataset = data.dataset("train")
    assert len(dataset) == 6
    assert_holds(dataset, augmented(voc, sbd))
    assert_holds(data.dataset("val"), voc["val"])
    rim = dataset[dataset.pairs.index(next(pair for pair in dataset.pairs if pair.id == "2007_000032"))].target
    assert (rim == 255).any()
    image = dataset[[pair.id for pair in dataset.pairs].index("2008_000002")].image
    assert (image * 255 - 77).abs().max() < 1
    assert pickle.loads(pickle.dumps(dataset)).pairs == dataset.pairs


@pytest.mark.parametrize("listed", [None, "ImageSets/Segmentation/train_aug.txt", "SegmentationClassAug/trainaug.txt"])
def test_trainaug_reads_converted_masks(tmp_path, listed):
    voc, sbd = trees.voc_tree(tmp_path), trees.sbd_tree(tmp_path / "sbd")
    base = tmp_path / "VOCdevkit/VOC2012"
    everything = {**sbd["train"], **sbd["val"]}
    for name, mask in everything.items():
        trees.save(base / "SegmentationClassAug" / f"{name}.png", mask)
        image = base / "JPEGImages" / f"{name}.jpg"
        if not image.exists():
            trees.save(image, np.zeros((48, 64, 3), np.uint8))
    expected = augmented(voc, sbd)
    if listed:
        names = sorted(set(everything) - set(voc["val"]) - {"2008_000003"})
        (base / listed).write_text("\n".join(names))
        del expected["2008_000003"]
    assert_holds(module("PascalVOC", tmp_path, train_list="trainaug").dataset("train"), expected)
    if listed:
        (base / listed).write_text("2008_000002\n2007_000033\n")
        message = error_of("PascalVOC", tmp_path, train_list="trainaug")
        assert f"{listed} names 1 images of VOC's validation split, such as 2007_000033" in message


def test_trainaug_without_sbd_says_where_to_get_it(tmp_path):
    trees.voc_tree(tmp_path)
    message = error_of("PascalVOC", tmp_path, train_list="trainaug")
    assert "SegmentationClassAug" in message
    assert "data.sbd_root" in message
    message = error_of("PascalVOC", tmp_path, train_list="trainaug", sbd_root=str(tmp_path / "sbd"))
    assert "sbd is not a folder" in message
    assert "cls/*.mat" in message
    with pytest.raises(ValueError, match=r"data\.train_list"):
        module("PascalVOC", tmp_path, train_list="aug")


def test_sbd_list_that_names_absent_files(tmp_path):
    trees.voc_tree(tmp_path)
    trees.sbd_tree(tmp_path)
    path = tmp_path / "benchmark_RELEASE/dataset/train.txt"
    path.write_text(path.read_text() + "".join(f"2010_00000{k}\n" for k in range(4)))
    message = error_of("PascalVOC", tmp_path, train_list="trainaug", sbd_root=str(tmp_path))
    assert f"{path} names 7 samples, of 4 of which there is no file" in message
    assert "2010_000000.mat, " in message
    assert "2010_000002.mat ..." in message
    assert "2010_000003" not in message


def test_voc_list_that_names_absent_masks(tmp_path):
    trees.voc_tree(tmp_path)
    (tmp_path / "VOCdevkit/VOC2012/SegmentationClass/2007_000039.png").unlink()
    message = error_of("PascalVOC", tmp_path)
    assert "Segmentation/train.txt names 3 samples, of 1 of which there is no file" in message
    assert "2007_000039.png" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "names no sample"),
        (b"\n \n", "names no sample"),
        (b"2007_000032\n2007_000039\n2007_000032\n", "names 2007_000032 twice, in lines 1 and 3"),
        (b"JPEGImages/2007_000032\n", "line 1 is 'JPEGImages/2007_000032', which is not the name of one sample"),
        (b"a\n..\\2007_000032\n", "line 2 is"),
        (b"2007_000032 1\n", "line 1 is '2007_000032 1'"),
        (b"\xff\xfe\x00", "no text in UTF-8"),
    ],
)
def test_faulty_list(tmp_path, content, expected):
    trees.voc_tree(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    path.write_bytes(content)
    message = error_of("PascalVOC", tmp_path)
    assert expected in message
    assert str(path) in message
    path.unlink()
    assert f"list {path} cannot be read" in error_of("PascalVOC", tmp_path)


def test_list_with_windows_line_ends(tmp_path):
    truth = trees.voc_tree(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert_holds(module("PascalVOC", tmp_path).dataset("train"), truth["train"])


def test_voc_may_count_void_as_background(tmp_path):
    truth = trees.voc_tree(tmp_path)
    data = module("PascalVOC", tmp_path, count_void=True)
    assert data.num_classes == 21
    assert_holds(data.dataset("val"), {name: np.where(mask == 255, 0, mask) for name, mask in truth["val"].items()})


def rewrite(path, **variables):
    import scipy.io

    scipy.io.savemat(path, variables)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.write_bytes(b""), "is no MATLAB 5 file"),
        (lambda path: path.write_bytes(path.read_bytes()[:128]), "is no MATLAB 5 file"),
        (lambda path: path.write_bytes(b"\x89HDF" + bytes(500)), "is no MATLAB 5 file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "cannot be decoded"),
        (lambda path: path.write_bytes(path.read_bytes()[:140]), "cannot be decoded"),
        (lambda path: path.write_bytes(path.read_bytes()[:150] + bytes(60) + path.read_bytes()[210:]), "cannot be"),
        (lambda path: rewrite(path, GTinst={"Segmentation": np.zeros((48, 64), np.uint8)}), "take SBD's folder cls"),
        (lambda path: rewrite(path, other=3), "holds no GTcls"),
        (lambda path: rewrite(path, GTcls={"Boundaries": 1}), "without Segmentation"),
        (lambda path: rewrite(path, GTcls=4), "without Segmentation"),
        (lambda path: rewrite(path, GTcls={"Segmentation": np.zeros((48, 64))}), "no array of 8-bit ids"),
        (lambda path: rewrite(path, GTcls={"Segmentation": np.full((48, 64), 33, np.uint8)}), "holds the ids 33,"),
        (lambda path: rewrite(path, GTcls={"Segmentation": np.zeros((48, 60), np.uint8)}), "is 60x48 pixels"),
    ],
)
def test_damaged_sbd_mask(tmp_path, damage, expected):
    trees.voc_tree(tmp_path)
    trees.sbd_tree(tmp_path)
    path = tmp_path / "benchmark_RELEASE/dataset/cls/2008_000003.mat"
    damage(path)
    message = error_of("PascalVOC", tmp_path, train_list="trainaug", sbd_root=str(tmp_path))
    assert expected in message
    assert str(path) in message


@pytest.mark.parametrize("compressed", [True, False])
def test_any_cut_or_altered_sbd_mask_is_named_or_read(tmp_path, compressed):
    """Nothing else is raised, and nothing crashes."""
    path = tmp_path / "x.mat"
    trees.save_sbd_mask(path, trees.random_mask(range(21), (48, 64), np.random.default_rng(0)), compressed)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(400):
        altered = bytearray(content[: rng.integers(0, len(content))] if trial % 2 else content)
        for place in rng.integers(0, max(1, min(1000, len(altered))), 4 if trial % 3 else 0):
            altered[place : place + 1] = bytes([rng.integers(256)])[: len(altered[place : place + 1])]
        path.write_bytes(altered)
        try:
            read_sbd_mask(path)
        except DataError as error:
            refused += str(path) in str(error)
    assert refused > 200


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("size", [(48, 64), (1, 3), (7, 5), (1, 1)])
def test_sbd_masks_are_read_as_scipy_reads_them(tmp_path, compressed, size):
    import scipy.io

    path = tmp_path / "x.mat"
    mask = np.random.default_rng(0).integers(0, 21, size, dtype=np.uint8)
    trees.save_sbd_mask(path, mask, compressed)
    assert np.array_equal(read_sbd_mask(path), mask)
    assert np.array_equal(read_sbd_mask(path), scipy.io.loadmat(path)["GTcls"][0]["Segmentation"][0])


def test_sbd_mask_that_unpacks_without_end(tmp_path, monkeypatch):
    trees.save_sbd_mask(tmp_path / "x.mat", np.zeros((48, 64), np.uint8))
    monkeypatch.setattr("robustseg.data.sbd._MOST", 1000)
    with pytest.raises(DataError, match=r"x\.mat cannot be decoded \(its compressed data have no end\)"):
        read_sbd_mask(tmp_path / "x.mat")


def test_download_fetches_what_is_missing(tmp_path, monkeypatch):
    import torchvision.datasets

    calls = []

    def voc(root, year, download):
        calls.append(("voc", root, year, download))
        trees.voc_tree(Path(root))

    def sbd(root, mode, download):
        calls.append(("sbd", root, mode, download))
        trees.sbd_tree(Path(root))

    monkeypatch.setattr(torchvision.datasets, "VOCSegmentation", voc)
    monkeypatch.setattr(torchvision.datasets, "SBDataset", sbd)
    settings = {"train_list": "trainaug", "sbd_root": str(tmp_path / "sbd")}
    module("PascalVOC", tmp_path / "voc", **settings).prepare_data()
    assert calls == []
    data = module("PascalVOC", tmp_path / "voc", download=True, **settings)
    data.prepare_data()
    data.prepare_data()
    expected = [("voc", str(tmp_path / "voc"), "2012", True), ("sbd", str(tmp_path / "sbd"), "segmentation", True)]
    assert calls == expected
    assert len(data.dataset("train")) == 6
    module("PascalVOC", tmp_path / "more", download=True).prepare_data()
    assert [call[0] for call in calls] == ["voc", "sbd", "voc"]


def test_download_that_fails(tmp_path, monkeypatch):
    import torchvision.datasets

    def fail(*args, **kwargs):
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(torchvision.datasets, "VOCSegmentation", fail)
    with pytest.raises(DataError, match=r"PASCAL VOC 2012 to .* failed \(File not found.*host\.robots.*data\.download"):
        module("PascalVOC", tmp_path, download=True).prepare_data()
    with pytest.raises(ValueError, match=r"data\.sbd_root"):
        module("PascalVOC", tmp_path, download=True, train_list="trainaug")


def test_torchvision_takes_these_arguments():
    import inspect

    from torchvision.datasets import SBDataset, VOCSegmentation

    assert {"root", "year", "download"} <= set(inspect.signature(VOCSegmentation).parameters)
    assert {"root", "mode", "download"} <= set(inspect.signature(SBDataset).parameters)


# Cityscapes


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
    """All of them are label ids too: only the absence of others tells."""
    trees.cityscapes_tree(tmp_path, "labelTrainIds")
    for path in (tmp_path / "gtFine").rglob("*labelTrainIds.png"):
        path.rename(path.with_name(path.name.replace("labelTrainIds", "labelIds")))
    message = error_of("Cityscapes", tmp_path)
    assert "hold train ids (0-18 and 255) in place of label ids" in message
    assert "labelTrainIds.png" in message
    module("Cityscapes", tmp_path, check="none").dataset("train")


def test_cityscapes_instances_are_named(tmp_path):
    trees.cityscapes_tree(tmp_path, "labelIds")
    for path in (tmp_path / "gtFine").rglob("*instanceIds.png"):
        shutil.copy(path, path.with_name(path.name.replace("instanceIds", "labelIds")))
    assert "numbers above 255 are objects" in error_of("Cityscapes", tmp_path)


# BDD100K


@pytest.mark.parametrize(("layout", "place"), [("bdd100k", ""), ("bdd100k", "bdd100k"), ("seg", ""), ("seg", "seg")])
def test_bdd100k_layouts(tmp_path, layout, place):
    truth = trees.bdd100k_tree(tmp_path, layout)
    data = module("BDD100K", tmp_path / place)
    for split in ("train", "val"):
        assert_holds(data.dataset(split), truth[split])


def test_bdd100k_label_ids_are_recognised(tmp_path):
    trees.bdd100k_tree(tmp_path)
    mask = next((tmp_path / "bdd100k/labels/sem_seg/masks/train").glob("*.png"))
    trees.save(mask, trees.random_mask(range(34), (48, 64), np.random.default_rng(0)))
    message = error_of("BDD100K", tmp_path)
    assert "label ids in place of train ids" in message
    assert "data.label_ids" not in message


# ADE20K


def test_ade20k_may_count_void_as_a_class(tmp_path):
    truth = trees.ade20k_tree(tmp_path)
    plain, counted = module("ADE20K", tmp_path), module("ADE20K", tmp_path, count_void=True)
    assert (plain.num_classes, counted.num_classes) == (150, 151)
    assert len(counted.class_names) == len(counted.palette) == 151
    assert counted.class_names[:2] == ["unlabelled", "wall"]
    assert plain.class_names[0] == "wall"
    shifted = {name: (mask + 1).astype(np.uint8) for name, mask in truth["val"].items()}  # 255 becomes 0
    assert_holds(counted.dataset("val"), shifted)
    assert plain.dataset("val").fingerprint(0) != counted.dataset("val").fingerprint(0)


def test_ade20k_masks_that_are_shifted_already(tmp_path):
    trees.ade20k_tree(tmp_path)
    for path in (tmp_path / "ADEChallengeData2016/annotations").rglob("*.png"):
        with Image.open(path) as picture:
            shifted = np.asarray(picture) - np.uint8(1)
        trees.save(path, shifted)
    assert "1 seems to be subtracted already" in error_of("ADE20K", tmp_path)
    assert "1 seems to be subtracted already" in error_of("ADE20K", tmp_path, count_void=True)


def test_ade20k_root_may_be_the_folder_itself(tmp_path):
    truth = trees.ade20k_tree(tmp_path)
    assert_holds(module("ADE20K", tmp_path / "ADEChallengeData2016").dataset("val"), truth["val"])


def test_ade20k_has_two_classes_of_one_colour(tmp_path):
    with pytest.raises(ValueError, match="road and skyscraper have the same colour"):
        module("ADE20K", tmp_path, masks="colours")


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
        assert len(data.sample_ids(split)) == MODULES[name].split_sizes[split]
        data.dataset(split)[0]


def test_real_count_of_trainaug():
    sbd = os.environ.get("ROBUSTSEG_SBD")
    if not sbd:
        pytest.skip("no SBD: set ROBUSTSEG_SBD to the folder that holds benchmark_RELEASE")
    data = real("PascalVOC", "ROBUSTSEG_VOC", train_list="trainaug", sbd_root=sbd)
    assert len(data.sample_ids("train")) == PascalVOC.split_sizes["trainaug"] == 10582


def test_real_camvid_counts(camvid_root):
    data = CamVid(str(camvid_root), check="headers", crop_size=(32, 32))
    for split in ("train", "val"):
        assert len(data.sample_ids(split)) == CamVid.split_sizes[split]
