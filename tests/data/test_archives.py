"""Data sets in archives: equal to the unpacked trees to the bit, with any number of workers and ranks."""

from __future__ import annotations

import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from robustseg.data.errors import DataError
from robustseg.data.loading import collate
from robustseg.data.order import SampleOrder
from robustseg.opening import packed
from robustseg.types import Sample

from . import trees
from .published import assert_holds, error_of, module

PUBLISHED = {
    "Cityscapes": {"leftImg8bit_trainvaltest.zip": ["leftImg8bit"], "gtFine_trainvaltest.zip": ["gtFine"]},
    "ADE20K": {"ADEChallengeData2016.zip": ["ADEChallengeData2016"]},
    "PascalVOC": {"VOCtrainval_11-May-2012.tar": ["VOCdevkit"]},
    "PascalContext": {"VOCtrainval_03-May-2010.tar": ["VOCdevkit"]},
    "BDD100K": {"images_10k.zip": ["bdd100k/images"], "sem_seg.zip": ["bdd100k/labels"]},
    "COCOStuff": {"train_val.zip": ["images"], "stuffthingmaps.zip": ["annotations"]},
}
"""Archives of the data sets as they are published, with the folders in them."""


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    packed._index.cache_clear()


def pack(archive: Path, tree: Path, folders: list[str], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Pack folders of a tree, with entries of folders."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    paths = sorted(path for folder in folders for path in [tree / folder, *(tree / folder).rglob("*")])
    if archive.suffix == ".tar":
        with tarfile.open(archive, "w") as opened:
            for path in paths:
                opened.add(path, path.relative_to(tree), recursive=False)
    else:
        with zipfile.ZipFile(archive, "w", method) as opened:
            for path in paths:
                opened.write(path, path.relative_to(tree))
    return archive


def pack_all(name: str, tree: Path, root: Path) -> Path:
    for archive, folders in PUBLISHED[name].items():
        pack(root / archive, tree, folders)
    return root


def assert_equal(one: Sample, other: Sample) -> None:
    assert one.id == other.id
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.target, other.target)


@pytest.mark.parametrize("name", PUBLISHED)
def test_archives_as_published_are_read_in_the_place_of_the_tree(tmp_path, name, recwarn):
    truth = trees.TREES[name](tmp_path / "tree")
    root = pack_all(name, tmp_path / "tree", tmp_path / "packed")
    plain, zipped = module(name, tmp_path / "tree", check="all"), module(name, root, check="all")
    for split in ("train", "val"):
        assert_holds(zipped.dataset(split), truth[split])
        for one, other in zip(plain.dataset(split), zipped.dataset(split), strict=True):
            assert_equal(one, other)
    assert zipped.counts() == plain.counts()
    assert [str(warning.message) for warning in recwarn if "passed over" in str(warning.message)] == []


@pytest.mark.parametrize("kind", ["stored", "deflated", "tar"])
@pytest.mark.parametrize("name", ["CamVid", "FolderPairs", "ADE20K"])
def test_a_root_that_is_an_archive(tmp_path, name, kind):
    truth = trees.TREES[name](tmp_path / "tree")
    method = zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED
    root = pack(tmp_path / ("x.tar" if kind == "tar" else "x.ZIP"), tmp_path / "tree", ["."], method)
    data = module(name, root, check="all")
    for split in ("train", "val"):
        assert_holds(data.dataset(split), truth[split])
    assert [pair.id for pair in data.pairs("train")] == [
        pair.id for pair in module(name, tmp_path / "tree").pairs("train")
    ]


def test_lists_tables_and_images_alone_lie_in_the_archive_as_well(tmp_path):
    truth = trees.pairs_tree(tmp_path / "tree")
    (tmp_path / "tree" / "lists").mkdir()
    (tmp_path / "tree" / "lists" / "train.txt").write_text("field/0001\nshore/0001.jpg\n")
    root = pack(tmp_path / "x.zip", tmp_path, ["tree"]) / "tree"
    shutil.rmtree(tmp_path / "tree")
    settings = {"image_folder": "train/images", "mask_folder": "train/masks"}
    data = module("FolderPairs", root, split_files={"train": "lists/train.txt"}, **settings)
    assert_holds(data.dataset("train"), {name: truth["train"][name] for name in ("field/0001", "shore/0001")})
    alone = module("FolderPairs", root, mask_folder=None)
    assert len(alone.dataset("val")) == 1
    assert alone.dataset("val")[0].image.shape == (3, 48, 64)


def batches(loader: DataLoader) -> list[tuple[list[str], torch.Tensor, torch.Tensor]]:
    return [(batch.ids, batch.images, batch.targets) for batch in loader]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_workers_and_ranks_see_the_same_batches(tmp_path, kind):
    trees.camvid_tree(tmp_path / "tree", {"train": [f"a{number}" for number in range(8)], "val": ["b", "c", "d"]})
    root = pack(tmp_path / f"x.{kind}", tmp_path / "tree", ["."])
    for workers, rank in ((0, 0), (2, 0), (2, 1)):
        settings = {"num_workers": workers, "augment": True, "batch_size": 2}
        plain, zipped = (module("CamVid", place, **settings) for place in (tmp_path / "tree", root))
        # from the middle of an epoch, as after a restart
        for make in (
            lambda data, rank=rank: data.train_loader(2, rank, start=(1, 4)),
            lambda data, rank=rank: data.eval_loader("val", 2, rank),
        ):
            one, other = batches(make(plain)), batches(make(zipped))
            assert one
            for (ids, images, targets), (others, *tensors) in zip(one, other, strict=True):
                assert ids == others
                assert torch.equal(images, tensors[0])
                assert torch.equal(targets, tensors[1])


@pytest.mark.slow
def test_workers_that_are_spawned_open_the_archive_themselves(tmp_path):
    trees.camvid_tree(tmp_path / "tree")
    root = pack(tmp_path / "x.tar", tmp_path / "tree", ["."])
    dataset = module("CamVid", root).dataset("train")
    assert len(pickle.dumps(dataset)) < 20_000
    order = SampleOrder(dataset, 1, 1, num_replicas=1, rank=0)
    loader = DataLoader(dataset, 1, sampler=order, num_workers=2, multiprocessing_context="spawn", collate_fn=collate)
    plain = module("CamVid", tmp_path / "tree").dataset("train")
    by_id = {plain.sample_id(index): plain[index] for index in range(len(plain))}
    found = batches(loader)
    assert sorted(ids[0] for ids, *_ in found) == sorted(by_id)
    for ids, images, targets in found:
        assert torch.equal(images[0], by_id[ids[0]].image)
        assert torch.equal(targets[0], by_id[ids[0]].target)


def test_the_disk_cache_keeps_samples_of_archives(tmp_path):
    trees.camvid_tree(tmp_path / "tree")
    root = pack(tmp_path / "x.zip", tmp_path / "tree", ["."])

    def train() -> torch.utils.data.Dataset:
        return module("CamVid", root, disk_cache=str(tmp_path / "kept"), image_size=(24, 32)).dataset("train")

    first = [train()[index] for index in range(2)]
    assert len(list((tmp_path / "kept").rglob("*.sample"))) == 2
    for index in range(2):
        assert_equal(train()[index], first[index])
    trees.camvid_tree(tmp_path / "tree", seed=1)
    pack(root, tmp_path / "tree", ["."])
    assert not torch.equal(train()[0].image, first[0].image)


def test_the_index_of_a_tar_is_kept_for_other_processes(tmp_path, monkeypatch):
    trees.voc_tree(tmp_path / "tree")
    root = pack_all("PascalVOC", tmp_path / "tree", tmp_path / "packed")
    expected = [pair.image for pair in module("PascalVOC", root).pairs("train")]
    (kept,) = (tmp_path / "caches" / "robustseg" / "archives").iterdir()
    packed._index.cache_clear()
    monkeypatch.setattr(packed, "tar_index", None)
    assert [pair.image for pair in module("PascalVOC", root).pairs("train")] == expected
    # a place that cannot be written to is no error
    monkeypatch.undo()
    packed._index.cache_clear()
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert [pair.image for pair in module("PascalVOC", root).pairs("train")] == expected


def test_a_tree_is_read_before_its_archive_and_what_it_lacks_is_named(tmp_path, recwarn):
    truth = trees.ade20k_tree(tmp_path)
    pack_all("ADE20K", tmp_path, tmp_path)
    data = module("ADE20K", tmp_path)
    assert data.pairs("train")[0].image.parts[-4] == "ADEChallengeData2016"
    assert not recwarn.list
    for folder, suffix in (("images", "jpg"), ("annotations", "png")):  # unpacking broke off
        (tmp_path / "ADEChallengeData2016" / folder / "training" / f"ADE_train_00000002.{suffix}").unlink()
    with pytest.warns(
        UserWarning, match=r"images is read, and lacks 1 files that .*2016\.zip.* training/ADE_train_00000002"
    ):
        assert len(module("ADE20K", tmp_path).dataset("train")) == 1
    shutil.rmtree(tmp_path / "ADEChallengeData2016")
    assert_holds(module("ADE20K", tmp_path).dataset("train"), truth["train"])


def test_two_archives_with_the_same_folder_are_named(tmp_path):
    trees.ade20k_tree(tmp_path / "tree")
    root = pack_all("ADE20K", tmp_path / "tree", tmp_path / "packed")
    shutil.copy(root / "ADEChallengeData2016.zip", root / "copy.zip")
    message = error_of("ADE20K", root)
    assert "ADEChallengeData2016.zip" in message
    assert "copy.zip" in message
    assert "take one of them away" in message


def test_an_archive_of_another_kind_does_not_disturb(tmp_path):
    truth = trees.cityscapes_tree(tmp_path / "tree")
    root = pack_all("Cityscapes", tmp_path / "tree", tmp_path / "packed")
    (root / "leftImg8bit_trainextra.zip").write_bytes(b"PK\x03\x04, half of it")
    (root / "notes.gz").write_bytes(b"\x1f\x8b")
    assert_holds(module("Cityscapes", root).dataset("train"), truth["train"])
    (root / "gtFine_trainvaltest.zip").unlink()
    message = error_of("Cityscapes", root)
    assert "holds no gtFine/train" in message
    assert "trainextra.zip: it is truncated" in message


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip"])
def test_an_archive_that_cannot_be_read_in_place_says_so(tmp_path, name):
    with tarfile.open(tmp_path / name, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("VOCdevkit"))
    for root in (tmp_path / name, tmp_path):
        assert "compressed by gzip, and only zip and plain tar archives" in error_of("PascalVOC", root)


def test_absent_members_and_damaged_ones_are_the_errors_of_files(tmp_path):
    trees.voc_tree(tmp_path / "tree")
    (tmp_path / "tree/VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg").unlink()
    root = pack_all("PascalVOC", tmp_path / "tree", tmp_path / "packed")
    assert "of 1 of which there is no file: " in error_of("PascalVOC", root)
    trees.camvid_tree(tmp_path / "camvid")
    zipped = pack(tmp_path / "x.zip", tmp_path / "camvid", ["."], zipfile.ZIP_STORED)
    content = bytearray(zipped.read_bytes())
    picture = (tmp_path / "camvid/train/0001TP_006690.png").read_bytes()
    content[content.find(picture) + len(picture) // 2] ^= 1
    zipped.write_bytes(content)
    message = error_of("CamVid", zipped, check="none")
    assert "x.zip/train/0001TP_006690.png" in message
    assert "does not fit its header or checksum in the archive" in message


def test_names_that_differ_in_case_are_named(tmp_path):
    trees.camvid_tree(tmp_path / "tree", {"train": ["a", "A"], "val": ["b"]})
    root = pack(tmp_path / "x.zip", tmp_path / "tree", ["."])
    with pytest.warns(UserWarning, match="differ in upper and lower case only"):
        module("CamVid", root).dataset("train")
    with pytest.raises(DataError, match="rename Train to train"):
        with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
            for path in (tmp_path / "tree").rglob("*.png"):
                archive.write(path, str(path.relative_to(tmp_path / "tree")).replace("train/", "Train/"))
        module("CamVid", tmp_path / "y.zip").dataset("train")


def test_hidden_files_of_an_archive_are_passed_over_as_in_a_tree(tmp_path):
    trees.pairs_tree(tmp_path / "tree")
    (tmp_path / "tree/train/images/field/._0001.jpg").write_bytes(b"of a Mac")
    root = pack(tmp_path / "x.zip", tmp_path / "tree", ["."])
    said = []
    for place in (tmp_path / "tree", root):
        with pytest.warns(UserWarning, match=r"passed over 1 .*\._0001\.jpg") as caught:
            module("FolderPairs", place).dataset("train")
        said.append(str(caught[0].message).replace(str(place), ""))
    assert said[0] == said[1]


def test_arrays_of_an_archive_are_those_of_the_files(tmp_path):
    trees.cityscapes_tree(tmp_path / "tree")
    root = pack_all("Cityscapes", tmp_path / "tree", tmp_path / "packed")
    one, other = (module("Cityscapes", place).dataset("val") for place in (tmp_path / "tree", root))
    for index in range(len(one)):
        assert all(np.array_equal(a, b) for a, b in zip(one.arrays(index), other.arrays(index), strict=True))
    assert one.fingerprint(0) != other.fingerprint(0)
