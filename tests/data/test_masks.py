"""Masks that hold something else than they should, recognised by their contents."""

import numpy as np
import pytest
from PIL import Image

from robustseg.data import CamVid, DataError, MaskFormat, PascalVOC

from . import trees

CLASSES = (("sky", (0, 0, 200)), ("road", (128, 64, 0)), ("tree", (0, 160, 0)), ("car", (200, 200, 0)))
COLOURS = np.array([colour for _, colour in CLASSES], np.uint8)
MASKS = MaskFormat.of_classes(CLASSES, (255,), ((0, 0, 0),))
PAINTED = MaskFormat.of_classes(CLASSES, (255,), ((0, 0, 0),), kind="colours")
IDS = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64) // 9 % 4


def fault(path, masks=MASKS):
    with pytest.raises(DataError) as caught:
        masks.read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def written(path, pixels, palette=None):
    trees.save(path, pixels, palette)
    return path


def test_colours_of_the_classes_in_place_of_ids(tmp_path):
    path = written(tmp_path / "x.png", COLOURS[IDS])
    assert "has the colour mode RGB" in fault(path)
    assert "its colours are those of the classes (sky, road, tree ...), so set data.masks to colours" in fault(path)
    assert np.array_equal(PAINTED.read(path), IDS)
    with pytest.raises(DataError, match=r"set data\.masks to colours"):
        MASKS.check_header(path)


def test_colours_decode_void(tmp_path):
    pixels = COLOURS[IDS]
    pixels[3:6, 4:9] = 0
    expected = IDS.copy()
    expected[3:6, 4:9] = 255
    path = written(tmp_path / "x.png", pixels)
    assert np.array_equal(PAINTED.read(path), expected)
    alpha = np.dstack([pixels, np.full(IDS.shape, 255, np.uint8)])
    assert np.array_equal(PAINTED.read(written(tmp_path / "a.png", alpha)), expected)


def test_grey_saved_as_rgb(tmp_path):
    path = written(tmp_path / "x.png", np.dstack([IDS] * 3))
    assert np.array_equal(MASKS.read(path), IDS)
    assert MASKS.check_header(path) == (64, 48)
    assert "its channels are equal and hold 4, 5, 6, 7, which are outside the 4 classes 0-3" in fault(
        written(tmp_path / "y.png", np.dstack([IDS + 4] * 3))
    )
    assert "greys are rather ids: set data.masks to ids" in fault(path, PAINTED)


def test_some_colours_of_the_classes(tmp_path):
    pixels = COLOURS[IDS]
    pixels[:, 0] = 5, 6, 7
    message = fault(written(tmp_path / "x.png", pixels))
    assert "4 of its 5 colours are those of classes and others, such as (5, 6, 7), are not" in message


def test_a_photo_is_no_mask(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    path = written(tmp_path / "x.png", pixels)
    assert fault(path).endswith("expected one class id per pixel: convert it to a single-channel PNG.")
    assert "so many come from smoothing or JPEG" in fault(path, PAINTED)


def test_colour_of_no_class(tmp_path):
    pixels = COLOURS[IDS]
    pixels[0, :2] = 9, 9, 10
    pixels[0, 2] = 1, 2, 3
    message = fault(written(tmp_path / "x.png", pixels), PAINTED)
    assert "holds (9, 9, 10), (1, 2, 3) in 0.098 % of its pixels, which are the colours of no class" in message
    assert "add them to the table" in message


def test_ids_where_colours_are_expected(tmp_path):
    message = fault(written(tmp_path / "x.png", IDS), PAINTED)
    assert "colour mode L" in message
    assert "set data.masks to ids" in message


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [0, 1, 3, 2]])
def test_palette_whose_indices_are_not_ids(tmp_path, order):
    """All indices are valid ids, so that nothing else would tell."""
    palette = COLOURS[order].ravel().tolist()
    path = written(tmp_path / "x.png", np.argsort(order).astype(np.uint8)[IDS], palette)
    message = fault(path)
    assert "is a palette PNG whose indices are not ids" in message
    assert "set data.masks to colours" in message
    first = next(index for index in range(4) if order[index] != index)
    assert f"index {first} has the colour {CLASSES[order[first]][1]}" in message
    assert f"class {order[first]}, {CLASSES[order[first]][0]}," in message
    assert np.array_equal(PAINTED.read(path), IDS)


@pytest.mark.parametrize("palette", [COLOURS.ravel().tolist(), [9, 9, 9] * 256, list(range(48))])
def test_palettes_that_do_no_harm(tmp_path, palette):
    assert np.array_equal(MASKS.read(written(tmp_path / "x.png", IDS, palette)), IDS)


def test_palette_of_unused_indices_does_not_matter(tmp_path):
    palette = COLOURS[[0, 1, 2, 3, 0, 1]].ravel().tolist()
    assert np.array_equal(MASKS.read(written(tmp_path / "x.png", IDS, palette)), IDS)


@pytest.mark.parametrize("top", [256, 26001, 65535])
def test_sixteen_bits_of_objects(tmp_path, top):
    pixels = IDS.astype(np.uint16)
    pixels[5] = top
    message = fault(written(tmp_path / "x.png", pixels))
    assert f"holds the ids {top}, which are outside the 4 classes 0-3 (sky to car; void: 255)" in message
    assert "numbers above 255 are objects" in message


def test_sixteen_bits_of_ids_are_read(tmp_path):
    pixels = IDS.astype(np.uint16)
    pixels[5] = 255
    read = MASKS.read(written(tmp_path / "x.png", pixels))
    assert read.dtype == np.uint8
    assert np.array_equal(read, pixels)


def test_negative_ids(tmp_path):
    pixels = IDS.astype(np.int32)
    pixels[5] = -1
    path = tmp_path / "x.tif"
    Image.fromarray(pixels).save(path)
    assert "holds the ids -1, which" in fault(path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, 85, 170, 255], "scaled to 0-255 (by 85)"),
        ([0, 64, 127, 191], "scaled to 0-255 (by 63.75)"),
        ([0, 40, 80, 120], "multiplied by 40"),
        ([0, 10, 20], "multiplied by 10"),
    ],
)
def test_ids_scaled_to_greys(tmp_path, values, said):
    pixels = np.array(values, np.uint8)[IDS % len(values)]
    message = fault(written(tmp_path / "x.png", pixels))
    assert "evenly spread" in message
    assert said in message


@pytest.mark.parametrize("values", [[0, 1, 2, 77], [7, 13, 200, 3], [0, 1, 2, 4]])
def test_other_foreign_ids_are_not_called_scaled(tmp_path, values):
    message = fault(written(tmp_path / "x.png", np.array(values, np.uint8)[IDS]))
    assert "evenly" not in message
    assert "convert it to these ids" in message


def test_ids_of_a_table(tmp_path):
    masks = MaskFormat(("a", "b"), {3: 0, 300: 1, 7: 255}, {(0, 0, 0): 0, (1, 1, 1): 1})
    pixels = np.array([3, 300, 7], np.uint16)[IDS % 3]
    assert np.array_equal(masks.read(written(tmp_path / "x.png", pixels)), np.array([0, 1, 255])[IDS % 3])
    pixels[0, 0] = 301
    assert "ids 301, which are outside the 2 classes 3, 300 (a to b; void: 7)" in fault(
        written(tmp_path / "x.png", pixels), masks
    )
    pixels[0, 0] = 8
    assert "ids 8, which" in fault(written(tmp_path / "x.png", pixels), masks)


def test_voc_in_colours(tmp_path):
    truth = trees.voc_tree(tmp_path)
    settings = {"crop_size": (32, 32), "num_workers": 0}
    for path in (tmp_path / "VOCdevkit/VOC2012/SegmentationClass").iterdir():
        with Image.open(path) as picture:
            picture.convert("RGB").save(path)
    with pytest.raises(
        DataError, match=r"its colours are those of the classes \(background, aeroplane, bicycle \.\.\."
    ):
        PascalVOC(str(tmp_path), **settings).dataset("train")
    dataset = PascalVOC(str(tmp_path), masks="colours", **settings).dataset("val")
    assert np.array_equal(dataset.read(0)[1], truth["val"]["2007_000033"])
    counted = PascalVOC(str(tmp_path), masks="colours", count_void=True, **settings).dataset("val")
    assert np.array_equal(counted.read(0)[1], truth["val"]["2007_000033"] % 255)


def test_camvid_in_colours(tmp_path):
    trees.camvid_tree(tmp_path)
    colours = np.array([*(colour for _, colour in CamVid.classes), (0, 0, 0)], np.uint8)
    plain = CamVid(str(tmp_path), image_size=None, crop_size=(32, 32)).dataset("val").read(0)[1]
    for path in (tmp_path / "valannot").iterdir():
        with Image.open(path) as picture:
            trees.save(path, colours[np.asarray(picture)])
    painted = CamVid(str(tmp_path), image_size=None, crop_size=(32, 32), masks="colours").dataset("val")
    assert np.array_equal(painted.read(0)[1], plain)


def test_two_classes_of_one_colour():
    twins = (("a", (1, 2, 3)), ("b", (1, 2, 3)), ("c", (4, 5, 6)))
    with pytest.raises(ValueError, match="a and b have the same colour"):
        MaskFormat.of_classes(twins, kind="colours")
    assert MaskFormat.of_classes(twins).colours == {(4, 5, 6): 2}
