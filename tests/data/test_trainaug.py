"""PASCAL VOC with SBD's masks: which images it has, and SBD's files."""

import pickle
import re

import numpy as np
import pytest

from robustseg.data.sbd import read_sbd_mask

from . import trees
from .published import assert_holds, error_of, module


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


@pytest.fixture
def converted(tmp_path):
    """VOC with SBD's masks as PNG, in capitals one of them: its folder, and what trainaug holds."""
    voc, sbd = trees.voc_tree(tmp_path), trees.sbd_tree(tmp_path / "sbd")
    base = tmp_path / "VOCdevkit/VOC2012"
    for name, mask in {**sbd["train"], **sbd["val"]}.items():
        suffix = "PNG" if name == "2010_000014" else "png"
        trees.save(base / "SegmentationClassAug" / f"{name}.{suffix}", mask)
        trees.save(base / "JPEGImages" / f"{name}.jpg", np.zeros((48, 64, 3), np.uint8))
    return base, augmented(voc, sbd)


@pytest.mark.parametrize(
    ("listed", "line", "with_voc"),
    [
        ("ImageSets/Segmentation/train_aug.txt", "{0}", True),
        ("ImageSets/Segmentation/trainaug.txt", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png", True),
        ("ImageSets/Segmentation/aug.txt", "JPEGImages/{0}.jpg\t{0}.png", False),
        ("ImageSets/SegmentationAug/train_aug.txt", "{0}", False),
    ],
)
def test_usual_lists_of_trainaug(tmp_path, converted, listed, line, with_voc):
    """mmsegmentation's aug.txt is without VOC's own images, the others are with them."""
    base, expected = converted
    del expected["2008_000003"]
    own = set((base / "ImageSets/Segmentation/train.txt").read_text().split())
    names = [name for name in expected if (with_voc and name == "2007_000032") or name not in own]
    (base / listed).parent.mkdir(exist_ok=True)
    (base / listed).write_text("\n".join(line.format(name) for name in names))
    assert_holds(module("PascalVOC", tmp_path, train_list="trainaug").dataset("train"), expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/JPEGImages/a.jpg /SegmentationClassAug/b.png", "whose image and mask have not the same name"),
        ("/JPEGImages/a.jpg", "is not the name of one sample"),
        ("a.jpg a.png 3", "is not the name of one sample"),
        ("/JPEGImages/2007_000033.jpg /SegmentationClassAug/2007_000033.png", "of VOC's validation split"),
    ],
)
def test_faulty_lists_of_trainaug(tmp_path, converted, line, expected):
    path = converted[0] / "ImageSets/Segmentation/trainaug.txt"
    path.write_text(line)
    message = error_of("PascalVOC", tmp_path, train_list="trainaug")
    assert str(path) in message
    assert expected in message


def test_two_columns_are_for_these_lists_only(tmp_path):
    trees.voc_tree(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    path.write_text("/JPEGImages/2007_000032.jpg /SegmentationClass/2007_000032.png\n")
    assert "is not the name of one sample" in error_of("PascalVOC", tmp_path)


def test_converted_mask_without_image(tmp_path, converted):
    base, _ = converted
    (base / "JPEGImages/2008_000002.jpg").unlink()
    message = error_of("PascalVOC", tmp_path, train_list="trainaug")
    assert f"no image in {base / 'JPEGImages'} for the mask 2008_000002 of {base / 'SegmentationClassAug'}" in message
    assert "out of the list" not in message


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


def rewrite(path, **variables):
    import scipy.io

    scipy.io.savemat(path, variables)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.write_bytes(b""), "is no MATLAB 5 file"),
        (lambda path: path.write_bytes(path.read_bytes()[:128]), "cannot be decoded|no GTcls"),
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
    assert re.search(expected, message)
    assert str(path) in message


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("size", [(48, 64), (1, 3), (7, 5), (1, 1)])
def test_sbd_masks_are_read_back(tmp_path, compressed, size):
    path = tmp_path / "x.mat"
    mask = np.random.default_rng(0).integers(0, 21, size, dtype=np.uint8)
    trees.save_sbd_mask(path, mask, compressed)
    assert np.array_equal(read_sbd_mask(path), mask)
