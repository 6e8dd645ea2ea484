"""PASCAL VOC's folders, lists and download."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from robustseg.data import DataError

from . import trees
from .published import assert_holds, error_of, module


@pytest.mark.parametrize("place", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_root_may_be_any_folder_on_the_way(tmp_path, place):
    truth = trees.voc_tree(tmp_path)
    assert_holds(module("PascalVOC", tmp_path / place).dataset("val"), truth["val"])


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


def test_suffixes_in_capitals(tmp_path):
    voc, sbd = trees.voc_tree(tmp_path), trees.sbd_tree(tmp_path)
    for path in [path for kind in ("jpg", "png", "mat") for path in tmp_path.rglob(f"*.{kind}")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    assert_holds(module("PascalVOC", tmp_path, check="all").dataset("train"), voc["train"])
    data = module("PascalVOC", tmp_path, check="all", train_list="trainaug", sbd_root=str(tmp_path))
    dataset = data.dataset("train")
    assert len(dataset) == 6
    index = [pair.id for pair in dataset.pairs].index("2008_000003")
    assert np.array_equal(dataset.read(index)[1], sbd["train"]["2008_000003"])
    assert {pair.mask.suffix for pair in dataset.pairs} == {".PNG", ".MAT"}


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


def test_a_tar_that_is_there_is_not_downloaded_nor_unpacked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr("robustseg.data.voc.download_voc", None)
    trees.voc_tree(tmp_path / "tree")
    (tmp_path / "packed").mkdir()
    shutil.make_archive(str(tmp_path / "packed" / "VOCtrainval_11-May-2012"), "tar", tmp_path / "tree")
    module("PascalVOC", tmp_path / "packed", download=True).prepare_data()
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["VOCtrainval_11-May-2012.tar"]
