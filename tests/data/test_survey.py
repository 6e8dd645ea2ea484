"""``robustseg datasets check``: what it finds in folders of every layout, proposes, writes and calls a problem."""

import resource
import shlex
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from robustseg.cli.main import main
from robustseg.data import FolderPairs
from robustseg.data.class_table import read_class_table

from . import trees
from .encoders import save_grey, save_palette


def checked(root, capsys, *options):
    status = main(["datasets", "check", str(root), *map(str, options)])
    out, err = capsys.readouterr()
    return status, out + err


def read_as_told(text, folder):
    """The data set that the printed options make."""
    told = text.split("--config data/folder_pairs", 1)[1].split("\n\n")[0].replace("\\\n", " ")
    words = shlex.split(told, comments=True)
    options = {key.removeprefix("--data."): value for key, value in zip(words[::2], words[1::2], strict=True)}
    options = {key: yaml.safe_load(value) if ":" in value else value for key, value in options.items()}
    return FolderPairs(**options, crop_size=(8, 8), check="all", num_workers=0)


def nested(root):
    return trees.pairs_tree(root)


def parallel(root):
    truth = trees.pairs_tree(root / "old")
    for old, new in (("images", "images"), ("masks", "annotations")):
        for split, name in (("train", "training"), ("val", "validation")):
            (root / new).mkdir(exist_ok=True)
            (root / "old" / split / old).rename(root / new / name)
    return truth


def suffixed(root):
    """Images and masks side by side, told by their endings."""
    truth = trees.camvid_tree(root / "old")
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for path in sorted((root / "old" / split).iterdir()):
            path.rename(root / split / f"{path.stem}_rgb.png")
        for path in sorted((root / "old" / f"{split}annot").iterdir()):
            path.rename(root / split / f"{path.stem}_mask.png")
    (root / "old").rename(root.parent / "old")
    return truth


@pytest.mark.parametrize("make", [nested, parallel, suffixed, trees.camvid_tree])
def test_usual_layouts_are_found_and_read_as_told(tmp_path, make, capsys):
    truth = make(tmp_path / "data")
    (tmp_path / "data/classes.yaml").unlink(missing_ok=True)
    table = tmp_path / "new.yaml"
    status, text = checked(tmp_path / "data", capsys, "--write", table)
    data = read_as_told(text, tmp_path)
    for split in ("train", "val"):
        dataset = data.dataset(split)
        assert sorted(truth[split]) == data.sample_ids(split)
        ids = np.array([row.ids[0] for row in data.rows if not row.ignore])
        for index, name in enumerate(sorted(truth[split])):
            read = dataset.read(index)[1]
            assert len(np.unique(read)) == len(np.unique(truth[split][name])), ids
    assert status == 0
    assert "problems  none" in text
    assert max(map(len, text.split("Read it with")[0].splitlines())) <= 100 + len(str(tmp_path))


def flat(root, masks, write):
    for number, mask in enumerate(masks):
        name = f"{number:03}"
        trees.save(root / "images" / f"{name}.jpg", np.full((*mask.shape[:2], 3), 20 * number, np.uint8))
        (root / "masks").mkdir(exist_ok=True)
        write(root / "masks" / f"{name}.png", mask)
    return root


def test_cityscapes_folders_are_recognised(tmp_path, capsys):
    """Of five files to an image, the one with labels."""
    trees.cityscapes_tree(tmp_path, "labelIds")
    _, text = checked(tmp_path, capsys)
    assert (
        "leftImg8bit/train/aachen and gtFine/train/aachen, called {name}_leftImg8bit and {name}_gtFine_labelIds" in text
    )
    assert "--data.image_folder 'leftImg8bit/{split}'" in text
    assert "--data.mask_name '{name}_gtFine_labelIds'" in text


IDS = np.repeat(np.arange(4, dtype=np.uint8), 16).reshape(8, 8)


@pytest.mark.parametrize(
    ("masks", "write", "said", "rows"),
    [
        ([IDS, IDS], lambda p, m: Image.fromarray(m).save(p), "data.masks: ids", {0: 25, 1: 25, 2: 25, 3: 25}),
        ([IDS > 0], lambda p, m: Image.fromarray(m * np.uint8(255)).save(p), "data.masks: ids", {0: 25, 255: 75}),
        ([IDS // 2], lambda p, m: save_grey(p, m, 1), "data.masks: ids", {0: 50, 1: 50}),
        ([IDS, IDS * 0 + 9], lambda p, m: save_grey(p, m, 4), "data.masks: ids", {0: 12.5, 9: 50}),
        ([IDS], lambda p, m: Image.fromarray(np.dstack([m] * 3)).save(p), "data.masks: ids", {3: 25}),
        ([IDS], lambda p, m: save_palette(p, m, np.eye(4, 3) * 200), "whose indices may be the ids", {3: 25}),
        ([IDS.astype(np.uint16) * 300], lambda p, m: save_grey(p, m, 16), "data.masks: ids", {900: 25}),
    ],
)
def test_ids_and_their_shares(tmp_path, masks, write, said, rows, capsys):
    flat(tmp_path, masks, write)
    status, text = checked(tmp_path, capsys, "--write", tmp_path / "t.yaml")
    assert status == 0
    assert said in text
    for number, share in rows.items():
        assert any(line.split()[:4] == [f"{share:.2f}", "%", "id", str(number)] for line in text.splitlines()), number
    table = read_class_table(tmp_path / "t.yaml")
    assert {number for row in table for number in row.ids} >= set(rows)
    assert "--data.split_files" in text


def test_bits_beside_greys_are_read_as_shown(tmp_path, capsys):
    flat(tmp_path, [IDS // 2 * 255, IDS // 2], lambda p, m: save_grey(p, m, 8 if m.max() > 1 else 1))
    _, text = checked(tmp_path, capsys)
    assert "data.masks: shown, as 1 of the masks have fewer than 8 bits" in text
    assert "--data.masks shown" in text


def test_colours_and_their_shares(tmp_path, capsys):
    colours = np.array([(9, 8, 7), (0, 200, 0), (1, 1, 1), (250, 0, 0)], np.uint8)
    flat(tmp_path, [colours[IDS]], lambda p, m: Image.fromarray(m).save(p))
    table = tmp_path / "t.yaml"
    _, text = checked(tmp_path, capsys, "--write", table)
    assert "data.masks: colours" in text
    assert " 25.00 %  colour (0, 200, 0)" in text
    assert {row.colours[0] for row in read_class_table(table)} == {tuple(map(int, colour)) for colour in colours}


def test_problems_are_named(tmp_path, capsys):
    flat(tmp_path, [IDS] * 6, lambda p, m: Image.fromarray(m).save(p))
    (tmp_path / "images/000.jpg").write_bytes(b"")
    (tmp_path / "masks/001.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    Image.fromarray(IDS[:4]).save(tmp_path / "masks/002.png")
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((90, 90)).save(tmp_path / "masks/003.png")
    (tmp_path / "masks/004.png").rename(tmp_path / "masks/x.png")
    trees.save(tmp_path / "more/y.png", IDS)
    Image.new("CMYK", (8, 8)).save(tmp_path / "images/005.jpg")
    (tmp_path / "masks/005.png").unlink()
    Image.fromarray(IDS.astype(np.float32)).save(tmp_path / "masks/005.tif")
    status, text = checked(tmp_path, capsys, "--picture", tmp_path / "p.png")
    assert status == 1
    for said in ("images/000.jpg cannot be opened", "masks/001.png", "002.png is 8x4 pixels", "003.png is 90x90"):
        assert said in text
    assert "files without a partner (2): images/004.jpg, masks/x.png" in text
    assert "pictures outside of these folders (1): more/y.png" in text
    assert "images of the form cmyk, to be converted or named in data.convert: 1" in text
    assert "005.tif has the colour mode F" in text
    assert Image.open(tmp_path / "p.png").size == (992, 606)


@pytest.mark.parametrize("content", ["", "text", "images only"])
def test_folders_without_pairs(tmp_path, content, capsys):
    if content == "text":
        (tmp_path / "a.txt").write_text("x")
    if content == "images only":
        trees.save(tmp_path / "images/a.jpg", np.zeros((4, 4, 3), np.uint8))
    status, text = checked(tmp_path, capsys)
    assert status == 1
    assert "holds no images and masks whose names pair up" in text
    assert ("images (1)" in text) == (content == "images only")
    status, text = checked(tmp_path / "none", capsys)
    assert status == 1
    assert "is not a folder" in text


@pytest.mark.parametrize("option", ["--write", "--picture"])
def test_nothing_is_overwritten(tmp_path, option, capsys):
    flat(tmp_path, [IDS], lambda p, m: Image.fromarray(m).save(p))
    path = tmp_path / "there"
    path.write_text("mine")
    status, text = checked(tmp_path, capsys, option, path)
    assert status == 1
    assert "there exists, and nothing is overwritten" in text
    assert path.read_text() == "mine"
    status, text = checked(tmp_path, capsys, option, tmp_path / "no/where")
    assert status == 1
    assert "cannot be written (No such file or directory)" in text


def test_the_picture_shows_images_and_masks(tmp_path, capsys):
    palette = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)])
    flat(tmp_path, [IDS] * 9, lambda p, m: save_palette(p, m, palette))
    checked(tmp_path, capsys, "--picture", tmp_path / "p.png")
    sheet = np.array(Image.open(tmp_path / "p.png"))
    assert sheet.shape == (4 * 202, 2 * 496, 3)
    assert tuple(sheet[14 + 10, 242 + 5]) == (255, 0, 0)
    assert tuple(sheet[14 + 170, 242 + 5]) == (9, 9, 9)
    assert np.abs(sheet[14 + 10, 496 + 5].astype(int) - 20).max() < 8


def test_it_needs_no_torch(tmp_path):
    flat(tmp_path, [IDS], lambda p, m: Image.fromarray(m).save(p))
    code = (
        "import sys; from robustseg.cli.main import main; "
        f"status = main(['datasets', 'check', {str(tmp_path)!r}, '--picture', {str(tmp_path / 'p.png')!r}]); "
        "sys.exit(status or any(name in sys.modules for name in ('torch', 'albumentations')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False).returncode == 0


def made(root, images, masks, names=("a1", "b2")):
    """Images and masks of these patterns, for each name."""
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        trees.save(root / f"{images.format(name)}.jpg", pixels)
        trees.save(root / f"{masks.format(name)}.png", IDS)
    return root


@pytest.mark.parametrize(
    ("images", "masks", "beside"),
    [
        ("JPEGImages/{}", "SegmentationClassPNG/{}", "SegmentationClass/{}.npy"),
        ("images/{}", "annotations/trimaps/{}", "annotations/xmls/{}.xml"),
        ("training/images/{}", "training/1st_manual/{}_manual1", "training/mask/{}_mask.gif"),
        ("train/sat/{}", "train/map/{}", "train/{}.tfw"),
        ("RGB/{}", "GT/LABELS/{}", "GT/COLOR/{}.png"),
    ],
)
def test_folders_of_known_data_sets(tmp_path, images, masks, beside, capsys):
    """Beside them are arrays, pictures for the eye, or masks of the field of view."""
    made(tmp_path, images, masks)
    for name in ("a1", "b2"):
        other = tmp_path / beside.format(name)
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes((tmp_path / f"{masks.format(name)}.png").read_bytes())
    _, text = checked(tmp_path, capsys)
    assert f" 2 pairs in {images.rpartition('/')[0]} and {masks.rpartition('/')[0]}" in text
    assert text.count(" pairs in ") == 1


@pytest.mark.parametrize(
    ("images", "masks"),
    [("{}_images/{{}}", "{}_masks/{{}}"), ("x_{}_y/{{}}", "z_{}/seg/{{}}"), ("{}/r/images/{{}}", "{}/r/masks/{{}}")],
)
@pytest.mark.parametrize("words", [("train", "val"), ("Training", "Validation"), ("train", "test")])
def test_words_of_splits_within_names(tmp_path, images, masks, words, capsys):
    """The samples of both splits have the same names, and the masks differ."""
    for word in words:
        made(tmp_path / "data", images.format(word), masks.format(word))
    for path in (tmp_path / "data").rglob("*.png"):
        Image.fromarray(IDS % (3 if words[0] in str(path.relative_to(tmp_path)) else 2)).save(path)
    _, text = checked(tmp_path / "data", capsys, "--write", tmp_path / "classes.yaml")
    data = read_as_told(text, tmp_path)
    assert data.dataset("train").read(0)[1].max() == 2
    assert data.dataset("val").read(0)[1].max() == 1


def test_lists_beside_the_folders(tmp_path, capsys):
    """As in VOC; a list of other names is none."""
    names = [f"2007_{number:06}" for number in range(4)]
    made(tmp_path / "voc", "JPEGImages/{}", "SegmentationClass/{}", names)
    lists = tmp_path / "voc/ImageSets/Segmentation"
    for folder, end in ((lists, ""), (tmp_path / "voc/ImageSets/Main", "x")):
        folder.mkdir(parents=True)
        (folder / "train.txt").write_text("".join(f"{name}{end}\n" for name in names[:3]))
        (folder / "val.txt").write_text(f"{names[3]}{end}\n")
    _, text = checked(tmp_path / "voc", capsys, "--write", tmp_path / "classes.yaml")
    assert read_as_told(text, tmp_path).sample_ids("train") == names[:3]
    (lists / "val.txt").unlink()
    _, text = checked(tmp_path / "voc", capsys)
    assert "# lists of names, to be written" in text


def test_one_split_is_not_divided_by_name(tmp_path, capsys):
    """A placeholder would ask for a folder of validation that is not there."""
    made(tmp_path, "train/{}_sat", "train/{}_mask")
    _, text = checked(tmp_path, capsys)
    assert "--data.image_folder 'train'" in text
    assert "--data.split_files" in text


def test_names_in_two_unicode_forms_and_odd_folders(tmp_path, capsys):
    """Archives of macOS have decomposed letters; quotes and spaces need quotes in a shell."""
    root = tmp_path / "Anna's data $HOME"
    for split in ("train", "val"):
        made(root, f"{split}/images/{{}}", f"{split}/masks/{{}}", ["Ba\u0308ume v1.2"])
        mask = next((root / split / "masks").iterdir())
        mask.rename(mask.with_name("B\u00e4ume v1.2.png"))
    status, text = checked(root, capsys, "--write", tmp_path / "my classes.yaml")
    assert status == 0
    assert read_as_told(text, tmp_path).sample_ids("train") == ["B\u00e4ume v1.2"]


@pytest.mark.parametrize("option", ["--write", "--picture"])
def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, option, capsys):
    root = made(tmp_path / "data", "images/{}", "masks/{}")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        status, text = checked(root, capsys, option, tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1
    assert "new cannot be written (File too large)" in text
    assert not (tmp_path / "new").exists()
