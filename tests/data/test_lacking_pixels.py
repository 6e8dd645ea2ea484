"""Pictures with fewer pixels than their header says, and masks whose pixels have a meaning of their own."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from robustseg.data.errors import DataError
from robustseg.data.masks import MaskFormat
from robustseg.data.pictures import decode_image
from tests.data.encoders import GREY, PALETTE, RGB, chunk, save_png

IDS = np.random.default_rng(0).integers(0, 3, (13, 17)).astype(np.uint8)
COLOURS = ((0, 0, 0), (128, 0, 0), (0, 128, 0))
CLASSES = list(zip(("sky", "road", "car"), COLOURS, strict=True))
MASKS = MaskFormat.of_classes(CLASSES)
PAINTED = MaskFormat.of_classes(CLASSES, kind="colours")
_INTERLACED = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def lines_of(ids, passes=((0, 0, 1, 1),)):
    return [b"\0" + row.tobytes() for x, y, across, down in passes for row in ids[y::down, x::across] if row.size]


def write(path, lines, colours=GREY, interlaced=0, extra=()):
    head = struct.pack(">IIBBBBB", 17, 13, 8, colours, 0, 0, interlaced)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))
    return path


def tiff(path, strips, *tags):
    """Little-endian, of 8 bits, 4 rows a strip."""
    offsets = np.cumsum([8, *map(len, strips)]).tolist()
    entries = {256: (4, [17]), 257: (4, [13]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 277: (3, [1])}
    entries |= {278: (4, [4]), 273: (4, offsets[:-1]), 279: (4, [len(strip) for strip in strips]), **dict(tags)}
    begin = offsets[-1] + 6 + 12 * len(entries)
    table, rest = b"", b""
    for tag, (kind, values) in sorted(entries.items()):
        body = struct.pack("<" + {3: "H", 4: "I"}[kind] * len(values), *values)
        if len(body) > 4:
            body, rest = struct.pack("<I", begin + len(rest)), rest + body
        table += struct.pack("<HHI", tag, kind, len(values)) + body.ljust(4, b"\0")
    start = struct.pack("<2sHI", b"II", 42, offsets[-1])
    path.write_bytes(start + b"".join(strips) + struct.pack("<H", len(entries)) + table + bytes(4) + rest)
    return path


def strips_of(ids):
    return [ids[row : row + 4].tobytes() for row in range(0, 13, 4)]


def test_a_png_with_too_few_lines(tmp_path):
    """Pillow fills what is not there with zeros, without an error."""
    black = IDS.copy()
    black[-1] = 0
    whole = write(tmp_path / "whole.png", lines_of(black))
    assert np.array_equal(MASKS.read(whole), black)
    for left in (1, 6, 12):
        with pytest.raises(DataError, match=r"few\.png cannot be decoded \(its pixels end too early\)"):
            MASKS.read(write(tmp_path / "few.png", lines_of(black)[:left]))
    for lines in (lines_of(IDS, _INTERLACED), lines_of(IDS, _INTERLACED)[:-1]):
        path = write(tmp_path / "interlaced.png", lines, interlaced=1)
        if lines == lines_of(IDS, _INTERLACED):
            assert np.array_equal(MASKS.read(path), IDS)
        else:
            with pytest.raises(DataError, match="end too early"):
                MASKS.read(path)


def test_other_forms_with_too_few_lines(tmp_path):
    """In a palette the zeros are a colour, so the numbers are what counts; images are pictures as well."""
    palette = (b"PLTE", bytes([9, 9, 9, 128, 0, 0, 0, 128, 0]))
    pixels = np.array(COLOURS, np.uint8)[IDS]
    for name, lines, colours, extra in (
        ("palette", lines_of(IDS), PALETTE, [palette]),
        ("colours", lines_of(pixels.reshape(13, -1)), RGB, []),
    ):
        path = write(tmp_path / f"{name}.png", lines, colours, extra=extra)
        decode_image(path)
        write(path, lines[:9], colours, extra=extra)
        with pytest.raises(DataError, match="end too early"):
            decode_image(path)
        with pytest.raises(DataError, match="end too early"):
            (PAINTED if colours == RGB else MASKS).read(path)


def test_a_tiff_without_some_of_its_strips(tmp_path):
    assert np.array_equal(MASKS.read(tiff(tmp_path / "x.tif", strips_of(IDS))), IDS)
    for left in (1, 3):
        path = tiff(tmp_path / "x.tif", strips_of(IDS)[:left])
        with pytest.raises(DataError, match=rf"x\.tif .*it has {left} of 4 parts of its pixels"):
            MASKS.read(path)
        with pytest.raises(DataError, match="parts of its pixels"):
            decode_image(path)


def test_signed_numbers_of_8_bits(tmp_path):
    """Pillow reads -1 as 255, which is void."""
    path = tiff(tmp_path / "x.tif", strips_of((IDS.astype(np.int8) - 1).view(np.uint8)), (339, (3, [2])))
    with pytest.raises(DataError, match="signed numbers of 8 bits"):
        MASKS.read(path)


def test_a_tiff_that_viewers_turn(tmp_path):
    """Pillow turns it as well, but does not say so."""
    path = tiff(tmp_path / "x.tif", strips_of(IDS), (274, (3, [3])))
    with pytest.raises(DataError, match="orientation 3, by which viewers turn it"):
        MASKS.read(path)
    with pytest.raises(DataError, match="orientation 3, by which viewers turn it"):
        MASKS.check_header(path)
    with pytest.raises(DataError, match="orientation 3, by which viewers turn it"):
        decode_image(path, upright=True)
    assert np.array_equal(MASKS.read(tiff(path, strips_of(IDS), (274, (3, [1])))), IDS)


def test_a_png_mask_that_viewers_turn(tmp_path):
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    with pytest.raises(DataError, match="orientation 6, by which viewers turn it"):
        MASKS.read(save_png(tmp_path / "x.png", IDS, GREY, 8, (b"eXIf", exif)))


def test_an_index_beyond_the_palette_has_no_colour(tmp_path):
    """It is a number all the same; black would be a class."""
    indices = IDS.copy()
    indices[3, 3] = 5
    path = save_png(tmp_path / "x.png", indices, PALETTE, 8, (b"PLTE", np.array(COLOURS, np.uint8).tobytes()))
    with pytest.raises(DataError, match="index 5, for which its palette has no colour"):
        PAINTED.read(path)
    with pytest.raises(DataError, match="holds the ids 5"):
        MASKS.read(path)
    six = MaskFormat.of_classes([*CLASSES, *((f"more{k}", (k, k, 200)) for k in range(3))])
    assert np.array_equal(six.read(path), indices)


def test_more_transparency_than_indices(tmp_path):
    extra = ((b"PLTE", np.array(COLOURS, np.uint8).tobytes()), (b"tRNS", bytes([255] * 300)))
    assert np.array_equal(MASKS.read(save_png(tmp_path / "x.png", IDS, PALETTE, 8, *extra)), IDS)


@pytest.mark.parametrize("suffix", ["pbm", "tif"])
def test_bits_with_white_at_zero_in_a_table_that_has_both(tmp_path, suffix):
    """0 and 1 are classes and 255 is void: which of them was meant is not known."""
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(IDS > 1).save(path, **({"tiffinfo": {262: 0}} if suffix == "tif" else {}))
    with pytest.raises(DataError, match="read in two ways, as 0 is white"):
        MASKS.read(path)
    shown = MaskFormat.of_classes(CLASSES, kind="shown").read(path)
    assert np.array_equal(shown, np.where(IDS > 1, 255, 0))
