"""What a mask's file format does to the ids: bits per pixel, channels, compression."""

import cv2
import numpy as np
import pytest
from PIL import Image

from robustseg.data import DataError, MaskFormat
from robustseg.data.pictures import decode_image

from .encoders import save_grey
from .test_masks import CLASSES, COLOURS, IDS, MASKS, PAINTED, fault, written

ALL = MaskFormat.of_classes([(f"class {k}", (k, k, k)) for k in range(16)], void_ids=())


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("width", [64, 63])
def test_greys_of_few_bits_are_ids(tmp_path, bits, width):
    ids = (np.arange(48 * width).reshape(48, width) // 5 % 2**bits).astype(np.uint8)
    path = save_grey(tmp_path / "x.png", ids, bits)
    read = ALL.read(path)
    assert read.dtype == np.uint8
    assert np.array_equal(read, ids)
    assert ALL.check_header(path) == (width, 48)


def test_palettes_of_few_bits_are_ids(tmp_path):
    picture = Image.fromarray(IDS)
    picture.putpalette([9, 9, 9] * 4)
    picture.save(tmp_path / "x.png", bits=2)
    assert np.array_equal(MASKS.read(tmp_path / "x.png"), IDS)


def test_foreign_ids_of_few_bits_are_named_as_they_are(tmp_path):
    assert "holds the ids 7, 9, which" in fault(save_grey(tmp_path / "x.png", np.array([[0, 7, 9, 1]], np.uint8), 4))


def test_black_and_white_is_not_called_scaled(tmp_path):
    masks = MaskFormat(("a", "b"), {0: 0, 7: 1, 9: 255}, {(0, 0, 0): 0, (1, 1, 1): 1})
    Image.fromarray(IDS > 1).save(tmp_path / "x.png")
    message = fault(tmp_path / "x.png", masks)
    assert "holds the ids 1, which" in message
    assert "convert it to these ids" in message


@pytest.mark.parametrize(("masks", "pixels"), [(MASKS, IDS), (PAINTED, COLOURS[IDS])])
@pytest.mark.parametrize("name", ["JPEG", "WEBP"])
def test_lossy_formats_are_refused_whatever_they_are_called(tmp_path, masks, pixels, name):
    path = tmp_path / "x.png"
    Image.fromarray(pixels).save(path, format=name, quality=95)
    expected = f"mask {path} is a {name} called .png, whose compression changes {masks.kind}: export it as PNG."
    assert fault(path, masks) == expected
    with pytest.raises(DataError, match="export it as PNG"):
        masks.check_header(path)


def test_lossy_and_plain_all_the_same(tmp_path):
    """Its ids happen to be valid, so that nothing else would tell."""
    path = tmp_path / "x.png"
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(path, format="JPEG")
    assert "is a JPEG called .png" in fault(path)


@pytest.mark.parametrize(
    ("mode", "masks", "remedy"),
    [
        ("LA", PAINTED, "save its first channel as a single-channel PNG and set data.masks to ids."),
        ("CMYK", MASKS, "expected one class id per pixel: export it as a single-channel PNG of ids."),
        ("CMYK", PAINTED, "convert it to RGB, or export it again."),
        ("F", MASKS, "save its ids as whole numbers in a single-channel PNG of 8 bits."),
        ("F", PAINTED, "set data.masks to ids if it holds one id per pixel."),
    ],
)
def test_remedies_fit_the_channels_and_the_setting(tmp_path, mode, masks, remedy):
    path = tmp_path / ("x.png" if mode == "LA" else "x.tif")
    Image.fromarray(IDS).convert(mode).save(path)
    message = fault(path, masks)
    assert f"has the colour mode {mode}; " in message
    assert message.endswith(remedy)


def test_data_sets_that_cannot_be_read_by_colours_advise_none(tmp_path):
    masks = MaskFormat.of_classes(CLASSES, (255,), ((0, 0, 0),), painted=False)
    moved = written(tmp_path / "p.png", 3 - IDS, COLOURS[::-1].ravel().tolist())
    smoothed = COLOURS[IDS]
    smoothed[0, 0] = 5, 6, 7
    for path in (
        moved,
        written(tmp_path / "x.png", COLOURS[IDS]),
        written(tmp_path / "s.png", smoothed),
    ):
        assert "set data.masks to colours" in fault(path)
        message = fault(path, masks)
        assert "data.masks" not in message
        assert "save the ids of these classes in a single-channel PNG" in message


@pytest.mark.parametrize(("foreign", "share"), [(0, "100"), (1, "100"), (1500, "51"), (3069, "0.098")])
def test_share_of_foreign_colours(tmp_path, foreign, share):
    """``foreign`` is the first pixel that has such a colour."""
    pixels = COLOURS[IDS].reshape(-1, 3)
    pixels[foreign:] = 9, 9, 10
    message = fault(written(tmp_path / "x.png", pixels.reshape(48, 64, 3)), PAINTED)
    assert f"in {share} % of its pixels" in message


def test_sixteen_bits_of_colour(tmp_path):
    """Pillow cuts them to 8 and says nothing."""
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), COLOURS[IDS][..., ::-1].astype(np.uint16) * 257)
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
    with pytest.raises(DataError, match=r"image .*x\.png has more than 8 bits per channel \(mode RGB;16B\)"):
        decode_image(path)
    assert "has more than 8 bits per channel: convert it to 8 bits" in fault(path, PAINTED)
