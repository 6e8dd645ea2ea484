"""Images that viewers turn by their EXIF data: read as they are stored, or refused where masks are anybody's."""

import numpy as np
import pytest
from PIL import Image

from robustseg.data import DataError

from . import trees
from .published import error_of, module


def turned(path, tag, size=trees.SIZE, suffix=".jpg"):
    """Replace an image by one with an orientation."""
    exif = Image.Exif()
    exif[0x0112] = tag
    path.unlink()
    pixels = trees.random_image(size, np.random.default_rng(0))
    Image.fromarray(pixels).save(path.with_suffix(suffix), exif=exif)
    return pixels


@pytest.mark.parametrize(
    ("check", "suffix", "tag"),
    [("none", ".jpg", 2), ("headers", ".jpg", 3), ("none", ".png", 6), ("headers", ".png", 8)],
)
def test_ones_own_images_are_to_be_upright(tmp_path, check, suffix, tag):
    trees.pairs_tree(tmp_path)
    path = tmp_path / "train/images/field/0002.jpg"
    turned(path, tag, suffix=suffix)
    message = error_of("FolderPairs", tmp_path, check=check)
    assert f"image {path.with_suffix(suffix)} has the EXIF orientation {tag}" in message
    assert "rotate its pixels and remove the tag (PIL.ImageOps.exif_transpose)" in message
    if check == "headers":
        with pytest.raises(DataError, match="EXIF orientation"):
            module("FolderPairs", tmp_path).dataset("train")


@pytest.mark.parametrize("tag", [0, 1, 9])
def test_tags_that_turn_nothing(tmp_path, tag):
    trees.pairs_tree(tmp_path)
    turned(tmp_path / "train/images/field/0002.jpg", tag)
    assert len(module("FolderPairs", tmp_path, check="all").dataset("train")) == 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_turns_nothing(tmp_path):
    trees.pairs_tree(tmp_path)
    path = tmp_path / "train/images/field/0002.jpg"
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0II*\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12"):
        Image.fromarray(trees.random_image(trees.SIZE, np.random.default_rng(0))).save(path, exif=exif)
        assert len(module("FolderPairs", tmp_path, check="all").dataset("train")) == 3


@pytest.mark.parametrize("tag", [3, 6])
def test_published_images_are_read_as_stored(tmp_path, tag):
    truth = trees.ade20k_tree(tmp_path)
    path = tmp_path / "ADEChallengeData2016/images/training/ADE_train_00000001.jpg"
    pixels = turned(path, tag)
    sample = module("ADE20K", tmp_path, check="all").dataset("train")[0]
    difference = (sample.image * 255).permute(1, 2, 0).numpy() - pixels
    assert np.abs(difference).mean() < 10
    assert np.array_equal(sample.target.numpy(), truth["train"]["ADE_train_00000001"])


@pytest.mark.parametrize("check", ["none", "headers"])
@pytest.mark.parametrize(
    ("tag", "size", "explained"), [(6, (64, 48), True), (3, (64, 48), False), (6, (64, 44), False)]
)
def test_orientation_that_explains_another_size_is_named(tmp_path, check, tag, size, explained):
    trees.ade20k_tree(tmp_path)
    turned(tmp_path / "ADEChallengeData2016/images/training/ADE_train_00000002.jpg", tag, size)
    message = error_of("ADE20K", tmp_path, check=check)
    assert "is 64x48 pixels but image" in message
    assert (f"EXIF orientation {tag}, by which viewers turn it; rotate its pixels" in message) == explained
    assert ("export one of them again" in message) != explained
