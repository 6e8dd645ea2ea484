"""Folders behind links, without permissions, with names of other forms or with other files in them."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from robustseg.data import DataError
from robustseg.data.folders import files_below

from . import trees
from .published import MODULES, assert_holds, error_of, module


def linked(folder, elsewhere):
    """Move a folder and leave a link to it."""
    elsewhere.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


@pytest.mark.parametrize("kind", ["labelIds", "both"])
def test_cities_may_be_links(tmp_path, kind):
    truth = trees.cityscapes_tree(tmp_path / "data", kind)
    for top in ("leftImg8bit", "gtFine"):
        linked(tmp_path / "data" / top / "train/zurich", tmp_path / "elsewhere" / top)
    dataset = module("Cityscapes", tmp_path / "data").dataset("train")
    assert_holds(dataset, truth["train"])
    read = "labelIds" if kind == "labelIds" else "labelTrainIds"
    assert all(pair.mask.name.endswith(f"{read}.png") for pair in dataset.pairs)


def test_nested_folders_may_be_links(tmp_path):
    truth = trees.pairs_tree(tmp_path / "data")
    for kind in ("images", "masks"):
        linked(tmp_path / "data/train" / kind / "field", tmp_path / "elsewhere" / kind)
    assert_holds(module("FolderPairs", tmp_path / "data").dataset("train"), truth["train"])


def test_links_in_circles_end(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "top" / name).mkdir(parents=True)
        (tmp_path / "top" / name / "file").touch()
    (tmp_path / "top/a/up").symlink_to(tmp_path / "top")
    (tmp_path / "top/a/self").symlink_to(tmp_path / "top/a/self")
    (tmp_path / "top/b/a").symlink_to(tmp_path / "top/a")
    (tmp_path / "top/a/b").symlink_to(tmp_path / "top/b")
    (tmp_path / "top/.hidden").mkdir()
    (tmp_path / "top/.hidden/file").touch()
    found = [path.relative_to(tmp_path / "top").as_posix() for path in files_below(tmp_path / "top")]
    assert [name for name in found if name.endswith("file")] == ["a/b/file", "a/file", "b/a/file", "b/file"]
    assert found == sorted(found)


@pytest.fixture
def locked(monkeypatch):
    """Takes paths that may then be neither listed nor opened, nor anything in them asked for, also by root."""
    paths = []

    def guard(owner, name):
        plain = getattr(owner, name)

        def guarded(path, *args, **kwargs):
            place = Path(path) if isinstance(path, (str, os.PathLike)) else None
            inside = place is not None and any(lock in place.parents for lock in paths)
            if inside or (place in paths and (owner, name) != (os, "stat")):
                raise PermissionError(13, "Permission denied", str(path))
            return plain(path, *args, **kwargs)

        monkeypatch.setattr(owner, name, guarded)

    for owner, name in (
        (os, "stat"),
        (os, "scandir"),
        (os, "listdir"),
        (os, "open"),
        ("builtins", "open"),
        ("io", "open"),
    ):
        guard(__import__(owner) if isinstance(owner, str) else owner, name)
    return paths


@pytest.mark.parametrize("name", MODULES)
def test_what_may_not_be_read_is_named(tmp_path, name, locked):
    trees.TREES[name](tmp_path)
    pair = module(name, tmp_path).dataset("train").pairs[0]
    for lock in (folder for path in (pair.image, pair.mask) for folder in (path, path.parent, path.parent.parent)):
        locked[:] = [lock]
        message = error_of(name, tmp_path)
        assert str(lock) in message
        assert "cannot be read (permission denied)" in message
        assert "chmod" in message
        assert "remove" not in message


def test_list_mat_and_table_that_may_not_be_read(tmp_path, locked):
    trees.voc_tree(tmp_path)
    trees.sbd_tree(tmp_path)
    settings = {"train_list": "trainaug", "sbd_root": str(tmp_path)}
    for name in ("VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt", "benchmark_RELEASE/dataset/cls/2008_000003.mat"):
        locked[:] = [tmp_path / name]
        message = error_of("PascalVOC", tmp_path, **settings)
        assert f"{tmp_path / name} cannot be read (permission denied)" in message
    trees.pairs_tree(tmp_path)
    locked[:] = [tmp_path / "classes.yaml"]
    with pytest.raises(DataError, match=r"classes\.yaml cannot be read \(permission denied\)"):
        module("FolderPairs", tmp_path)
    locked[:] = [tmp_path]
    with pytest.raises(DataError, match=r"cannot be read \(permission denied\)"):
        module("FolderPairs", tmp_path)


def test_test_folder_that_may_not_be_seen(tmp_path, locked):
    trees.camvid_tree(tmp_path)
    trees.pairs_tree(tmp_path)
    data = [module("CamVid", tmp_path), module("FolderPairs", tmp_path)]
    locked[:] = [tmp_path]
    for one in data:
        with pytest.raises(DataError, match="permission denied"):
            one.test_split()


def test_accents_may_be_encoded_either_way(tmp_path):
    truth = trees.pairs_tree(tmp_path, splits={"train": ["é/ü"], "val": ["v"]})
    names = {form: unicodedata.normalize(form, "é/ü") for form in ("NFC", "NFD")}
    for form, kind, suffix in (("NFD", "images", "jpg"), ("NFC", "masks", "png")):
        target = tmp_path / "train" / kind / f"{names[form]}.{suffix}"
        found = next((tmp_path / "train" / kind).rglob(f"*.{suffix}"))
        content = found.read_bytes()
        found.unlink()
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
    dataset = module("FolderPairs", tmp_path).dataset("train")
    assert dataset.sample_id(0) == names["NFC"]
    assert np.array_equal(dataset.read(0)[1], next(iter(truth["train"].values())))


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".npy"])
def test_masks_of_other_formats_are_named(tmp_path, suffix):
    trees.pairs_tree(tmp_path)
    for path in (tmp_path / "train/masks").rglob("*.png"):
        path.rename(path.with_suffix(suffix))
    message = error_of("FolderPairs", tmp_path)
    assert "masks holds no .png or .tif or .tiff or .bmp or .gif or .pgm or .ppm or .pbm file but" in message
    assert f"file but 3 {suffix} files such as 0001{suffix} (" in message
    lossy = "export masks as PNG from their source, as this compression has changed ids"
    assert (lossy in message) == (suffix != ".npy")
    assert ("convert them to PNG)" in message) == (suffix == ".npy")


@pytest.mark.parametrize(("name", "folder"), [("CamVid", "train"), ("ADE20K", "ADEChallengeData2016/images/training")])
def test_images_of_other_formats_are_named(tmp_path, name, folder):
    trees.TREES[name](tmp_path)
    for path in (tmp_path / folder).iterdir():
        path.rename(path.with_suffix(".jp2"))
    message = error_of(name, tmp_path)
    assert "holds no .png or .jpg or .jpeg or .bmp or .tif or .tiff or .webp file but 2 .jp2 files such as " in message
    assert "(convert them to PNG or JPEG)" in message
