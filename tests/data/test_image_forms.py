"""Images that are not RGB of 8 bits: converted where an option says so, refused otherwise."""

import cv2
import numpy as np
import pytest
from PIL import Image

from robustseg.data import CamVid, DataError
from robustseg.data.pictures import check_image, decode_image, open_picture

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOURS = np.dstack([GREY, GREY[::-1], GREY.T])
DEEP = GREY.astype(np.uint16) * 256 + 77


def written(path, form):
    if form == "16bit colours":
        cv2.imwrite(str(path), np.dstack([DEEP] * 3))
    elif form == "bands":
        Image.merge("RGBX", [*map(Image.fromarray, (GREY, GREY, GREY, GREY))]).save(path, format="TIFF")
    else:
        pictures = {
            "grey": Image.fromarray(GREY),
            "bits": Image.fromarray(GREY > 99),
            "grey and alpha": Image.merge("LA", [Image.fromarray(GREY)] * 2),
            "alpha": Image.fromarray(np.dstack([COLOURS, GREY])),
            "16bit": Image.fromarray(DEEP),
            "cmyk": Image.fromarray(COLOURS).convert("CMYK"),
            "float": Image.fromarray(GREY.astype(np.float32)),
            "32bit": Image.fromarray(GREY.astype(np.int32)),
        }
        pictures[form].save(path, format="TIFF" if form in ("cmyk", "float", "32bit") else "PNG")
    return path


@pytest.mark.parametrize(
    ("form", "needs"),
    [
        ("grey", ["grey"]),
        ("bits", ["grey"]),
        ("grey and alpha", ["grey", "alpha"]),
        ("alpha", ["alpha"]),
        ("16bit", ["16bit", "grey"]),
        ("16bit colours", ["16bit"]),
        ("cmyk", ["cmyk"]),
        ("bands", ["bands"]),
    ],
)
def test_forms_are_converted_where_the_option_names_them(tmp_path, form, needs):
    path = written(tmp_path / "x.png", form)
    read = decode_image(path, convert=needs)
    expected = {
        "alpha": COLOURS,
        "cmyk": np.asarray(Image.fromarray(COLOURS).convert("CMYK").convert("RGB")),
        "bits": np.dstack([(GREY > 99) * np.uint8(255)] * 3),
    }.get(form, np.dstack([GREY] * 3))
    assert np.array_equal(read, expected)
    for left in needs:
        with pytest.raises(DataError, match=f"or add {left} to data.convert, which ") as caught:
            decode_image(path, convert=[need for need in needs if need != left])
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("form", ["16bit", "16bit colours", "cmyk", "bands", "float", "32bit"])
def test_what_would_change_is_refused_by_default(tmp_path, form):
    path = written(tmp_path / "x.png", form)
    with open_picture(path) as picture, pytest.raises(DataError, match=r"x\.png .*convert it to 8 bits"):
        check_image(picture, path)


def test_several_pictures_in_a_file(tmp_path):
    for suffix in ("tif", "png", "webp"):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(COLOURS).save(path, save_all=True, append_images=[Image.fromarray(COLOURS[::-1])])
        with pytest.raises(DataError, match="holds 2 pictures"):
            decode_image(path)


def test_the_option_reaches_the_files(root):
    settings = {"image_size": None, "crop_size": (8, 8), "num_workers": 0}
    Image.fromarray(np.full((24, 32), 40000, np.uint16)).save(root / "train/a.png")
    with pytest.raises(DataError, match=r"add 16bit to data\.convert, which takes the upper 8 bits"):
        CamVid(str(root), **settings).dataset("train")
    dataset = CamVid(str(root), convert=["16bit", "grey"], **settings).dataset("train")
    assert dataset.read(0)[0][0, 0].tolist() == [156, 156, 156]
    other = CamVid(str(root), convert=["16bit", "grey", "cmyk"], **settings).dataset("train")
    assert dataset.fingerprint(0) != other.fingerprint(0)
    with pytest.raises(ValueError, match=r"convert = \['gray'\]: set data\.convert to some of grey, alpha"):
        CamVid(str(root), convert=["gray"], **settings)
