"""One meaning of a mask in all forms that it may be stored in: equal classes, or an error that names both readings."""

import numpy as np
import pytest
from PIL import Image

from robustseg.data import CamVid, DataError, FolderPairs, MaskFormat, PascalVOC
from robustseg.data.files import check_headers
from robustseg.data.pairing import FilePair

from . import trees
from .encoders import GREY, GREY_ALPHA, RGBA, same_picture, save_grey, save_palette, save_png
from .test_masks import CLASSES, COLOURS, IDS, MASKS, PAINTED, fault

BINARY = MaskFormat(("ground", "object"), {0: 0, 255: 1}, {(0, 0, 0): 0, (255, 255, 255): 1})
BINARY_VOID = MaskFormat(("ground", "object"), {0: 0, 1: 1, 255: 255}, {(1, 1, 1): 0, (2, 2, 2): 1})
COUNTED = MaskFormat(("ground", "object"), {0: 0, 1: 1}, {(1, 1, 1): 0, (2, 2, 2): 1})
FOUR = MaskFormat(("a", "b", "c", "d"), {0: 0, 85: 1, 170: 2, 255: 3}, {(k, 9, 9): k for k in range(4)})
SEVENTEEN = MaskFormat(("a", "b", "c"), {0: 0, 17: 1, 238: 2}, {(k, 9, 9): k for k in range(3)})
WIDE = MaskFormat(("a", "b", "c"), {0: 0, 257: 1, 65535: 2}, {(k, 9, 9): k for k in range(3)})
GREYS = MaskFormat(("a", "b"), {1: 0, 2: 1}, {(128, 128, 128): 0, (64, 64, 64): 1, (0, 0, 0): 255}, kind="colours")


def rgba(pixels):
    """What an H×W or H×W×3 picture shows."""
    colours = pixels if pixels.ndim == 3 else np.dstack([pixels] * 3)
    return np.dstack([colours, np.full(pixels.shape[:2], 255)]).astype(np.uint8)


def readings(masks, shown, folder):
    """Classes by form, or the message."""
    found = {}
    for number, (name, write) in enumerate(same_picture(shown)):
        path = write(folder / f"{number}.png")
        try:
            found[name] = masks.read(path)
        except DataError as error:
            found[name] = str(error)
    return found


@pytest.mark.parametrize(
    ("masks", "ids", "refused"),
    [
        # ids of the classes, so that a palette may mean its indices or its greys
        (MASKS, [0, 1, 2, 3], ["palette reversed", "palette by frequency"]),
        (MASKS, [3, 255, 1], ["palette reversed", "palette by frequency", "palette sorted"]),
        (BINARY, [0, 255], []),
        (
            BINARY_VOID,
            [0, 255],
            ["grey of 1 bits", *(f"palette {how}" for how in ("sorted", "reversed", "by frequency"))],
        ),
        (FOUR, [0, 85, 170, 255], []),
        (FOUR, [255, 0], []),
        (SEVENTEEN, [0, 17, 238], []),
    ],
)
def test_a_lossless_optimiser_changes_no_id(tmp_path, masks, ids, refused):
    ids = np.array(ids, np.uint8)[IDS % len(ids)]
    literal = np.vectorize(dict(masks.class_of).__getitem__, otypes=[np.uint8])(ids)
    found = readings(masks, rgba(ids), tmp_path)
    assert np.array_equal(found["grey of 8 bits"], literal)
    for name, read in found.items():
        if isinstance(read, str):
            assert "in two ways" in read, (name, read)
            assert name in refused, read
        else:
            assert np.array_equal(read, literal), name
    assert {name for name, read in found.items() if isinstance(read, str)} <= {*refused}


@pytest.mark.parametrize(
    ("masks", "colours"),
    [(PAINTED, [*COLOURS, (0, 0, 0)]), (GREYS, [(128, 128, 128), (0, 0, 0)]), (GREYS, [(64, 64, 64)])],
)
def test_a_lossless_optimiser_changes_no_colour(tmp_path, masks, colours):
    colours = np.array(colours, np.uint8)
    which = IDS % len(colours)
    literal = np.array([masks.colours[tuple(map(int, colour))] for colour in colours], np.uint8)[which]
    found = readings(masks, rgba(colours[which]), tmp_path)
    assert len(found) >= 5
    for name, read in found.items():
        if name == "grey of 16 bits":
            assert "more than 8 bits" in read
        else:
            assert np.array_equal(read, literal), (name, read)


def test_palettes_of_class_colours_are_read_or_told_from_ids(tmp_path):
    """VOC's masks, whose palette an optimiser sorts and cuts."""
    masks = PascalVOC(str(tmp_path), crop_size=(32, 32)).mask_format()
    ids = np.array([0, 15, 255, 7], np.uint8)[IDS]
    shown = rgba(np.array(trees.voc_palette(), np.uint8).reshape(256, 3)[ids])
    for name, read in readings(masks, shown, tmp_path).items():
        assert "set data.masks to colours" in read, name
    painted = PascalVOC(str(tmp_path), crop_size=(32, 32), masks="colours").mask_format()
    for name, read in readings(painted, shown, tmp_path).items():
        assert np.array_equal(read, ids), name


@pytest.mark.parametrize("first", [0, 3])
def test_foreign_colours_of_a_palette_are_counted(tmp_path, first):
    """Indices need not begin at 0, nor be without gaps."""
    palette = np.vstack([np.zeros((first, 3), int), COLOURS[:3], [(9, 9, 10)]])
    message = fault(save_palette(tmp_path / "x.png", IDS + first, palette), PAINTED)
    assert f"holds (9, 9, 10) in {100 * (IDS == 3).mean():.0f} % of its pixels" in message


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("masks", [COUNTED, BINARY_VOID, BINARY])
def test_few_bits_mean_what_the_table_has(tmp_path, bits, masks):
    """Numbers 0 and 1 of a file show 0 and 255, 85 or 17."""
    path = save_grey(tmp_path / "x.png", IDS % 2, bits)
    if masks is COUNTED or (masks is BINARY_VOID and bits > 1):
        assert np.array_equal(masks.read(path), IDS % 2)
    elif masks is BINARY_VOID:
        message = fault(path, masks)
        assert "stored as 1 and so class 1 (object) or shown as the grey 255 and so void" in message
        assert "set data.masks to stored or to shown" in message
    elif bits == 1:
        assert np.array_equal(masks.read(path), IDS % 2)
    else:
        assert "holds the ids 1, which" in fault(path, masks)


@pytest.mark.parametrize(("kind", "expected"), [("stored", 1), ("shown", 255)])
@pytest.mark.parametrize("form", ["grey", "palette"])
def test_an_option_decides(tmp_path, kind, expected, form):
    masks = MaskFormat(("ground", "object"), BINARY_VOID.class_of, BINARY_VOID.colours, kind)
    greys = np.array([(0, 0, 0), (255, 255, 255)])
    path = tmp_path / "x.png"
    path = save_grey(path, IDS % 2, 1) if form == "grey" else save_palette(path, IDS % 2, greys, 1)
    assert np.array_equal(masks.read(path), (IDS % 2) * expected)
    data = CamVid(str(tmp_path), crop_size=(32, 32), masks=kind)
    assert data.mask_format().kind == kind
    with pytest.raises(ValueError, match="stored or shown"):
        CamVid(str(tmp_path), crop_size=(32, 32), masks="guess")


def test_sixteen_bits_of_the_same_greys(tmp_path):
    """Ids above 255 that are repeated bytes are cut to 8 bits, or to fewer."""
    for number, ids in enumerate(([0, 257, 65535], [0, 65535], [257])):
        shown = np.array(ids)[IDS % len(ids)]
        literal = np.vectorize(dict(WIDE.class_of).__getitem__, otypes=[np.uint8])(shown)
        found = readings(WIDE, rgba((shown // 257).astype(np.uint8)), tmp_path / str(number))
        for name, read in found.items():
            assert np.array_equal(read, literal) or (len(ids) == 1 and "palette" in name and "two ways" in read), name
    masks = MaskFormat.of_classes([(str(k), (k, 5, 5)) for k in range(4)], ())
    assert np.array_equal(masks.read(save_grey(tmp_path / "y.png", IDS.astype(np.uint16) * 257, 16)), IDS)
    assert "ids 253, 254, 256, which" in fault(save_grey(tmp_path / "z.png", IDS.astype(np.uint16) + 253, 16))


def hidden(colours, which):
    """RGBA with the pixels of the last colour transparent."""
    return np.dstack([np.array(colours, np.uint8)[which], np.where(which == which.max(), 0, 255)]).astype(np.uint8)


def test_transparent_pixels_of_no_colour_are_void(tmp_path):
    """An optimiser may paint them in any colour."""
    for number, under in enumerate([(0, 0, 0), (255, 255, 255), (9, 8, 7)]):
        shown = hidden([*COLOURS[:3], under], IDS)
        for name, read in readings(PAINTED, shown, tmp_path / str(number)).items():
            assert np.array_equal(read, np.where(IDS == 3, 255, IDS)), name


def test_transparent_pixels_of_a_colour_are_named(tmp_path):
    shown = hidden(COLOURS, IDS)
    for name, read in readings(PAINTED, shown, tmp_path).items():
        assert "of the colour (200, 200, 0) and so class 3 (car) or transparent and so void" in read, name
        assert "without transparency" in read
    without = MaskFormat.of_classes(CLASSES, (), (), kind="colours")
    for name, read in readings(without, shown, tmp_path / "b").items():
        assert np.array_equal(read, IDS), name
    message = readings(without, hidden([*COLOURS[:3], (1, 1, 1)], IDS), tmp_path / "c")["RGBA"]
    assert "holds (1, 1, 1) in" in message


def test_transparent_greys(tmp_path):
    grey = np.dstack([IDS, np.where(IDS == 3, 0, 255)]).astype(np.uint8)
    message = fault(save_png(tmp_path / "x.png", grey, GREY_ALPHA))
    assert "shown as the grey 3 and so class 3 (car) or transparent and so void" in message
    grey[..., 0][IDS == 3] = 77
    expected = np.where(IDS == 3, 255, IDS)
    assert np.array_equal(MASKS.read(save_png(tmp_path / "y.png", grey, GREY_ALPHA)), expected)
    assert np.array_equal(MASKS.read(save_png(tmp_path / "z.png", grey[..., [0, 0, 0, 1]], RGBA)), expected)
    key = (b"tRNS", b"\0\x4d")
    assert np.array_equal(MASKS.read(save_png(tmp_path / "k.png", grey[..., 0], GREY, 8, key)), expected)
    # a number in the file is an id, whatever viewers do not show
    assert np.array_equal(MASKS.read(save_png(tmp_path / "n.png", IDS, GREY, 8, (b"tRNS", b"\0\2"))), IDS)
    clear = np.column_stack([COLOURS, [0, 255, 255, 255]])
    assert np.array_equal(MASKS.read(save_palette(tmp_path / "p.png", IDS, clear)), IDS)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif", "pgm", "ppm"])
def test_other_formats(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.dstack([IDS] * 3) if suffix == "ppm" else IDS).save(path)
    assert np.array_equal(MASKS.read(path), IDS)
    if suffix not in ("pgm", "ppm"):
        Image.fromarray(COLOURS[IDS]).convert("P", palette=Image.Palette.ADAPTIVE).save(path)
        assert np.array_equal(PAINTED.read(path), IDS)
    if suffix != "pgm":
        Image.fromarray(COLOURS[IDS]).save(path)
        assert np.array_equal(PAINTED.read(path), IDS)


def test_largest_value_of_a_pgm(tmp_path):
    """Pillow scales its numbers to 8 bits."""
    path = tmp_path / "x.pgm"
    for largest in (3, 7, 100):
        path.write_bytes(f"P5 64 48 {largest}\n".encode() + IDS.tobytes())
        assert np.array_equal(MASKS.read(path), IDS), largest
        path.write_text(f"P2 64 48 {largest}\n" + " ".join(map(str, IDS.ravel())))
        assert np.array_equal(MASKS.read(path), IDS), largest
    path.write_bytes(b"P5 64 48 300\n" + IDS.astype(">u2").tobytes())
    assert np.array_equal(MASKS.read(path), IDS)
    path.write_bytes(b"P5 64 48 4\n" + (IDS + 1).tobytes())
    assert "ids 4, which" in fault(path)


@pytest.mark.parametrize("suffix", ["pbm", "tif"])
def test_bits_with_white_at_zero_are_what_they_show(tmp_path, suffix):
    """The bit 1 is black in a file, and True when it is written."""
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(IDS > 1).save(path, **({"tiffinfo": {262: 0}} if suffix == "tif" else {}))
    assert np.array_equal(BINARY.read(path), IDS > 1)
    assert "holds the ids 255, which" in fault(path, COUNTED)


def test_pictures_with_several_frames_or_lossy_parts_are_refused(tmp_path):
    frames = [Image.fromarray(IDS), Image.fromarray(3 - IDS)]
    for suffix in ("tif", "png", "gif"):
        path = tmp_path / f"x.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert "holds 2 pictures" in fault(path)
    path = tmp_path / "y.tif"
    Image.fromarray(np.dstack([IDS] * 3)).save(path, compression="jpeg")
    assert "is a TIFF JPEG called .tif, whose compression changes ids" in fault(path)


def test_palettes_that_contradict_each_other(tmp_path):
    """Colours of no class, sorted anew in each file: no single file shows that its indices are not ids."""
    colours = np.array([(200, 10, 10), (10, 200, 10), (10, 10, 200), (90, 9, 90)])
    pairs = []
    for name, order in (("a", [0, 1, 2, 3]), ("b", [0, 1, 2, 3]), ("c", [1, 0, 2, 3])):
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / f"{name}.jpg")
        mask = save_palette(tmp_path / f"{name}.png", np.argsort(order)[IDS], colours[order], 2)
        pairs.append(FilePair(name, tmp_path / f"{name}.jpg", mask))
    check_headers(pairs[:2], MASKS)
    with pytest.raises(
        DataError, match=r"a\.png and .*c\.png .* contradict .* \(10, 200, 10\) is index 1 in one and 0"
    ):
        check_headers(pairs, MASKS)
    check_headers(pairs, MaskFormat.of_classes(CLASSES, kind="stored"))


def test_a_data_set_in_twelve_forms(tmp_path):
    """The whole way: the files of folders, as a user has them."""
    truth = trees.pairs_tree(tmp_path / "plain", "colours")["train"]
    forms = {}
    for name, classes in truth.items():
        colours = np.array([(128, 64, 0), (0, 160, 0), (0, 0, 200)] + [(0, 0, 0)] * 253, np.uint8)[classes]
        for form, write in same_picture(rgba(colours)):
            write(tmp_path / form / "train/masks" / f"{name}.png")
            forms.setdefault(form, []).append(name)
        for suffix in ("bmp", "tif", "ppm"):
            path = tmp_path / suffix / "train/masks" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(colours).save(path, format=Image.registered_extensions()[f".{suffix}"])
            forms.setdefault(suffix, []).append(name)
    for form in forms:
        (tmp_path / form / "train/images").symlink_to(tmp_path / "plain/train/images")
        settings = {"classes": str(tmp_path / "plain/classes.yaml"), "crop_size": (32, 32), "masks": "colours"}
        dataset = FolderPairs(str(tmp_path / form), check="all", **settings).dataset("train")
        for index in range(3):
            assert np.array_equal(dataset.read(index)[1], truth[dataset.sample_id(index)]), form
    assert len(forms) >= 8


def mutants(folder, count):
    """Masks of every form with a few changed bytes."""
    rng = np.random.default_rng(0)
    originals = [write(folder / f"{number}.png") for number, (_, write) in enumerate(same_picture(rgba(IDS)))]
    for suffix in ("tif", "bmp", "gif", "pgm"):
        Image.fromarray(IDS).save(folder / f"x.{suffix}")
        originals.append(folder / f"x.{suffix}")
    for number in range(count):
        original = originals[number % len(originals)]
        content = bytearray(original.read_bytes())
        for place in rng.integers(0, min(len(content), 200), 3):
            content[place] = rng.integers(256)
        path = folder / f"mutant{number}{original.suffix}"
        path.write_bytes(content)
        yield path


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.exhaustive)])
@pytest.mark.filterwarnings("ignore")
def test_changed_bytes_end_in_errors_or_classes(tmp_path, count):
    for path in mutants(tmp_path, count):
        for masks in (MASKS, PAINTED):
            try:
                masks.check_header(path)
                read = masks.read(path)
            except DataError as error:
                said = str(error)
            else:
                said = "" if set(np.unique(read)) <= {0, 1, 2, 3, 255} else "no class"
            assert "\n" not in said
            assert said != "no class"
