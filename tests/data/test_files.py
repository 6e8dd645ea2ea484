"""What is read from files, and what is said about bad ones."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustseg.data import CamVid, DataError, MaskFormat, PairedFiles, pair_by_stem
from robustseg.data.catalogue import find_dataset
from robustseg.data.lightning import SegmentationDataModule

from . import published
from .conftest import pattern, write_image


def camvid(root: Path, **kwargs) -> CamVid:
    return CamVid(str(root), **{"image_size": (24, 32), "num_workers": 0, "batch_size": 1, **kwargs})


def error_of(root: Path, **kwargs) -> str:
    """Message of the error that opening and then reading the training split ends in."""
    return published.error_of("CamVid", root, **{"image_size": (24, 32), "crop_size": None, **kwargs})


def test_png_is_read_exactly(root):
    image, mask = pattern(0)
    sample = camvid(root, augment=False).dataset("train")[0]
    assert sample.id == "a"
    assert torch.equal(sample.image, torch.from_numpy(image).permute(2, 0, 1) / 255)
    assert sample.image.dtype == torch.float32
    expected = torch.from_numpy(mask).long()
    expected[expected == 11] = 255
    assert torch.equal(sample.target, expected)
    assert sample.target.dtype == torch.int64


def test_jpeg_is_read_as_rgb(root):
    dataset = camvid(root, augment=False).dataset("train")
    assert [dataset[i].id for i in range(5)] == ["a", "b", "c", "d", "e"]
    for index in range(5):
        expected = torch.from_numpy(pattern(index)[0]).permute(2, 0, 1) / 255
        # the edge at half height is where JPEG is inexact
        assert (dataset[index].image - expected)[:, :8].abs().max() < 3 / 255


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_masks_of_any_single_channel_mode(tmp_path, mode):
    image, mask = pattern(0)
    write_image(tmp_path / "i" / "x.png", image)
    (tmp_path / "m").mkdir()
    picture = Image.fromarray(mask if mode in "LP" else mask.astype(np.uint16))
    if mode == "P":
        picture.putpalette([250, 3, 7] * 256)
    picture.save(tmp_path / "m" / "x.png")
    masks = MaskFormat.of_classes([(str(k), (k, k, k)) for k in range(12)])
    dataset = PairedFiles(pair_by_stem(tmp_path / "i", tmp_path / "m", "x"), masks)
    assert np.array_equal(dataset.read(0)[1], mask)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    write_image(tmp_path / "i" / "x.png", np.full((4, 4), 77, np.uint8))
    write_image(tmp_path / "i" / "y.png", np.full((4, 4, 4), (10, 20, 30, 0), np.uint8))
    for name in "xy":
        write_image(tmp_path / "m" / f"{name}.png", np.zeros((4, 4), np.uint8))
    masks = MaskFormat.of_classes([("only", (0, 0, 0))])
    dataset = PairedFiles(pair_by_stem(tmp_path / "i", tmp_path / "m", "x"), masks)
    assert dataset.read(0)[0][0, 0].tolist() == [77, 77, 77]
    assert dataset.read(1)[0][0, 0].tolist() == [10, 20, 30]


def test_hidden_and_foreign_files_are_passed_over(root):
    (root / "train" / "._a.jpg").write_bytes(b"resource fork")
    (root / "train" / "Thumbs.db").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"train: passed over 2 that are no image or mask: \._a\.jpg, Thumbs\.db"):
        assert len(camvid(root).dataset("train")) == 5


def test_missing_files_are_named(root):
    (root / "trainannot" / "c.png").rename(root / "c.png")
    message = error_of(root)
    assert "no mask" in message
    assert "image c:" in message
    (root / "train" / "c.JPG").unlink()
    (root / "train" / "d.jpeg").rename(root / "d.jpeg")
    message = error_of(root)
    assert "no image" in message
    assert "mask d:" in message
    (root / "d.jpeg").rename(root / "train" / "d.jpeg")
    write_image(root / "train" / "c.png", pattern(2)[0])
    for stem in "abd":
        (root / "trainannot" / f"{stem}.png").unlink()
    assert "a, b, c and 1 more" in error_of(root)
    shutil.rmtree(root / "trainannot")
    assert "trainannot is not a folder" in error_of(root)
    for path in (root / "train").iterdir():
        path.unlink()
    assert "train holds no .png or .jpg or .jpeg or .bmp or" in error_of(root)


def test_two_images_of_one_name(root):
    write_image(root / "train" / "a.jpg", pattern(0)[0])
    message = error_of(root)
    assert "a.jpg" in message
    assert "a.png" in message


@pytest.mark.parametrize("check", ["none", "headers", "all"])
def test_mask_of_another_size(root, check):
    write_image(root / "trainannot" / "b.png", pattern(1, (24, 30))[1])
    message = error_of(root, check=check)
    assert "trainannot/b.png is 30x24" in message
    assert "train/b.jpg is 32x24" in message


@pytest.mark.parametrize(
    ("check", "name", "content"),
    [
        ("none", "train/c.JPG", b""),
        ("headers", "train/c.JPG", b"not a picture"),
        ("all", "trainannot/c.png", b""),
        ("headers", "trainannot/c.png", b""),
        ("none", "trainannot/c.png", b"not a picture"),
    ],
)
def test_unreadable_file(root, check, name, content):
    (root / name).write_bytes(content)
    message = error_of(root, check=check)
    assert f"{name} cannot be opened" in message
    assert "replace or remove" in message


@pytest.mark.parametrize("name", ["train/c.JPG", "train/a.png", "trainannot/a.png"])
@pytest.mark.parametrize("kept", [0.35, 0.6, 0.9])
def test_truncated_file(root, name, kept):
    rng = np.random.default_rng(0)
    if name.startswith("train/"):
        write_image(root / name, rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    else:
        write_image(root / name, rng.integers(0, 11, (24, 32), dtype=np.uint8))
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[: int(kept * len(content))])
    message = error_of(root)
    assert f"{name} cannot be" in message
    assert "replace or remove" in message


def test_id_outside_the_classes(root):
    mask = pattern(1)[1]
    mask[3, 4], mask[5, 6] = 12, 200
    write_image(root / "trainannot" / "b.png", mask)
    message = error_of(root)
    assert "trainannot/b.png holds the ids 12, 200" in message
    assert "11 classes 0-10 (Sky to Bicyclist; void: 11, 255)" in message


def test_sixteen_bit_id_is_not_wrapped(root):
    mask = pattern(1)[1].astype(np.uint16)
    mask[0, 0] = 256
    Image.fromarray(mask).save(root / "trainannot" / "b.png")
    assert "ids 256," in error_of(root)


def test_colour_mask_is_refused(root):
    write_image(root / "trainannot" / "b.png", pattern(1)[0])
    assert "trainannot/b.png has the colour mode RGB" in error_of(root)


def test_sixteen_bit_image_is_refused(root):
    Image.fromarray(np.full((24, 32), 40000, np.uint16)).save(root / "train" / "a.png")
    assert "train/a.png has more than 8 bits" in error_of(root)


def test_setup_reports_bad_files_before_training(root):
    (root / "val" / "f.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"f\.png cannot be opened"):
        SegmentationDataModule(camvid(root)).setup("fit")
    SegmentationDataModule(camvid(root, check="none")).setup("fit")


def test_setup_finds_what_only_decoding_shows(root):
    mask = pattern(1)[1]
    mask[3, 4] = 12
    write_image(root / "valannot" / "g.png", mask)
    camvid(root, check="headers").dataset("val")
    with pytest.raises(DataError, match=r"g\.png holds the ids 12"):
        camvid(root).dataset("val")


def test_message_survives_the_worker(root):
    mask = pattern(0)[1]
    mask[0, 0] = 77
    write_image(root / "valannot" / "g.png", mask)
    with pytest.raises(DataError) as caught:
        list(camvid(root, num_workers=1).eval_loader("val"))
    assert str(caught.value).startswith("mask ")
    assert "ids 77," in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_test_split_falls_back_to_val(root):
    module = SegmentationDataModule(camvid(root))
    module.setup("test")
    assert list(module.data.datasets) == ["val"]
    assert [batch.ids for batch in module.test_dataloader()] == [["f"], ["g"], ["h"]]
    shutil.copytree(root / "train", root / "test")
    shutil.copytree(root / "trainannot", root / "testannot")
    assert [batch.ids for batch in SegmentationDataModule(camvid(root)).test_dataloader()] == [
        ["a"],
        ["b"],
        ["c"],
        ["d"],
        ["e"],
    ]


def test_cache_saves_decoding_and_changes_nothing(root):
    plain, cached = camvid(root).dataset("train"), camvid(root, cache=True).dataset("train")
    for index in range(5):
        torch.manual_seed(index)
        expected = plain[index]
        for _ in range(2):
            torch.manual_seed(index)
            sample = cached[index]
            assert torch.equal(sample.image, expected.image)
            assert torch.equal(sample.target, expected.target)
    shutil.rmtree(root / "train")
    assert cached[0].id == "a"
    with pytest.raises(DataError):
        plain[0]


def test_real_camvid(camvid_root):
    module = CamVid(str(camvid_root), num_workers=0, batch_size=2, crop_size=(360, 360))
    train, val = module.dataset("train"), module.dataset("val")
    sizes = find_dataset("CamVid").split_sizes
    assert (len(train), len(val)) == (sizes["train"], sizes["val"]) == (367, 101)
    assert len({dataset.sample_id(i) for dataset in (train, val) for i in range(len(dataset))}) == 468
    batch = next(iter(module.eval_loader("val")))
    assert batch.images.shape == (2, 3, 360, 480)
    assert batch.targets.shape == (2, 360, 480)
    counts = torch.zeros(256, dtype=torch.long)
    for index in range(0, 101, 10):
        counts += val[index].target.flatten().bincount(minlength=256)
    assert counts[11:255].sum() == 0
    assert counts[:11].min() > 0
    assert counts[255] > 0
    # road and building are what a street shows most
    assert set(counts[:11].topk(2).indices.tolist()) == {1, 3}
    assert next(iter(module.train_loader())).images.shape == (2, 3, 360, 360)
