"""Tiny data sets in the layouts and file formats of the real ones, for tests of anything that reads them.

Each function writes the files and returns what their masks hold: the class id of each pixel by split and sample id,
as the data set is to read it, 255 where there is none. Contents depend on nothing but ``seed``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

VOID = 255
SIZE = (48, 64)
Splits = Mapping[str, Sequence[str]]
"""Samples of each split."""
Truth = dict[str, dict[str, np.ndarray]]
"""H×W uint8 class ids by split and sample id."""

CITYSCAPES_TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
    28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Written down once more, so that a wrong table in the package is found."""


def _rng(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, *name.encode()])


def random_mask(ids: Sequence[int], size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Blocks of 8×8 pixels of random ids, of which the first two and the last always occur."""
    rows, columns = -(-size[0] // 8), -(-size[1] // 8)
    blocks = rng.choice(ids, (rows, columns))
    blocks[0, 0], blocks[0, 1], blocks[-1, -1] = ids[0], ids[1], ids[-1]
    return blocks.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]].astype(np.uint8)


def random_image(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth enough for JPEG."""
    coarse = rng.integers(0, 256, (-(-size[0] // 16), -(-size[1] // 16), 3), dtype=np.uint8)
    return coarse.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]]


def save(path: Path, pixels: np.ndarray, palette: Sequence[int] | None = None) -> None:
    """Write a picture, a mask with ``palette`` as a palette PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette is not None:
        picture.putpalette(list(palette))
    picture.save(path, **({} if path.suffix.lower() == ".png" else {"quality": 95}))


def _write_list(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def voc_palette() -> list[int]:
    """The 256 colours of VOC's masks, 768 numbers."""
    colours = []
    for index in range(256):
        bits = [(index >> bit) & 1 for bit in range(8)]
        colours += [bits[k] << 7 | bits[k + 3] << 6 | (bits[k + 6] << 5 if k < 2 else 0) for k in range(3)]
    return colours


def _write(
    splits: Splits, size: tuple[int, int], seed: int, ids: Sequence[int], paths: Callable[[str, str], Sequence[Path]],
    read: Callable[[np.ndarray], np.ndarray] = lambda mask: mask,
    save_mask: Callable[[Path, np.ndarray], None] | None = None,
    prefix: str = "",
) -> Truth:  # fmt: skip
    """An image and a mask of random ``ids`` for each sample, and what the masks are read as.

    Args:
        splits: Samples of each split.
        size: (height, width).
        seed: Of the contents.
        ids: What the masks hold.
        paths: (split, sample) to the files of image and mask.
        read: A mask of ids to the classes that the data set makes of them.
        save_mask: Writes a mask; ``save`` without it.
        prefix: Of the samples' names, for contents of their own.
    """
    truth: Truth = {}
    for split, names in splits.items():
        for name in names:
            rng = _rng(seed, prefix + name)
            mask = random_mask(ids, size, rng)
            image_path, mask_path = paths(split, name)
            save(image_path, random_image(size, rng))
            (save_mask or save)(mask_path, mask)
            truth.setdefault(split, {})[name] = read(mask).astype(np.uint8)
    return truth


def voc_tree(root: Path, splits: Splits | None = None, size: tuple[int, int] = SIZE, seed: int = 0) -> Truth:
    """``root/VOCdevkit/VOC2012``: JPEG images, palette PNG masks with a void rim, and the lists of the splits."""
    splits = splits or {
        "train": ["2007_000032", "2007_000039", "2011_003276"],
        "val": ["2007_000033", "2007_000042"],
    }
    base = root / "VOCdevkit" / "VOC2012"
    everything = {**splits, "trainval": [name for names in splits.values() for name in names]}
    for split, names in everything.items():
        _write_list(base / "ImageSets" / "Segmentation" / f"{split}.txt", names)
    # pictures without a mask belong to VOC's other tasks
    save(base / "JPEGImages" / "2008_000001.jpg", random_image(size, _rng(seed, "other")))

    def paths(split: str, name: str) -> tuple[Path, Path]:
        return base / "JPEGImages" / f"{name}.jpg", base / "SegmentationClass" / f"{name}.png"

    def with_palette(path: Path, mask: np.ndarray) -> None:
        save(path, mask, voc_palette())

    return _write(splits, size, seed, [*range(21), VOID], paths, save_mask=with_palette)


def save_sbd_mask(path: Path, mask: np.ndarray, compressed: bool = True) -> None:
    """A .mat file with the nested struct of SBD's: ``GTcls`` of Boundaries, Segmentation and CategoriesPresent."""
    import scipy.io
    import scipy.sparse

    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), dtype=object)
    for index in range(20):
        boundaries[index, 0] = scipy.sparse.csc_matrix(mask == index + 1)
    present = np.setdiff1d(np.unique(mask), [0]).astype(np.uint8).reshape(-1, 1)
    contents = {"Boundaries": boundaries, "Segmentation": mask.astype(np.uint8), "CategoriesPresent": present}
    scipy.io.savemat(path, {"GTcls": contents}, do_compression=compressed)


def sbd_tree(root: Path, splits: Splits | None = None, size: tuple[int, int] = SIZE, seed: int = 0) -> Truth:
    """``root/benchmark_RELEASE/dataset``: SBD's own splits, which overlap VOC's; its masks know no void.

    With ``voc_tree``'s default images the augmented list is its three training images and 2008_000002, 2008_000003,
    2010_000014.
    """
    splits = splits or {
        "train": ["2008_000002", "2007_000032", "2008_000003"],
        "val": ["2010_000014", "2007_000033"],
    }
    base = root / "benchmark_RELEASE" / "dataset"
    for split, names in splits.items():
        _write_list(base / f"{split}.txt", names)

    def paths(split: str, name: str) -> tuple[Path, Path]:
        return base / "img" / f"{name}.jpg", base / "cls" / f"{name}.mat"

    return _write(splits, size, seed, range(21), paths, save_mask=save_sbd_mask, prefix="sbd ")


def cityscapes_tree(
    root: Path,
    kind: str = "both",
    splits: Mapping[str, Mapping[str, int]] | None = None,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
) -> Truth:
    """``root/leftImg8bit`` and ``root/gtFine`` with several cities, and the files beside the masks that are no masks.

    Args:
        root: Folder to write to.
        kind: ``"labelIds"``, ``"labelTrainIds"`` or ``"both"``.
        splits: Images of each city of each split.
        size: (height, width).
        seed: Of the contents.
    """
    splits = splits or {
        "train": {"aachen": 2, "zurich": 1},
        "val": {"frankfurt": 1, "munster": 1},
        "test": {"berlin": 1},
    }
    to_train = np.full(256, VOID, np.uint8)
    for label, train in CITYSCAPES_TRAIN_IDS.items():
        to_train[label] = train
    truth: Truth = {}
    for split, cities in splits.items():
        for city, number in cities.items():
            for index in range(number):
                name = f"{city}_{index:06d}_000019"
                rng = _rng(seed, name)
                # the test split is published with every pixel outside of evaluation
                ids = random_mask(list(range(34)) if split != "test" else [0, 1, 3], size, rng)
                folder = root / "gtFine" / split / city
                save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", random_image(size, rng))
                if kind in ("labelIds", "both"):
                    save(folder / f"{name}_gtFine_labelIds.png", ids)
                if kind in ("labelTrainIds", "both"):
                    save(folder / f"{name}_gtFine_labelTrainIds.png", to_train[ids])
                save(folder / f"{name}_gtFine_instanceIds.png", ids.astype(np.uint16) * 1000)
                save(folder / f"{name}_gtFine_color.png", np.stack([ids, ids, ids], 2))
                (folder / f"{name}_gtFine_polygons.json").write_text("{}")
                truth.setdefault(split, {})[name] = to_train[ids]
    return truth


def bdd100k_tree(root: Path, layout: str = "bdd100k", size: tuple[int, int] = SIZE, seed: int = 0) -> Truth:
    """``root/bdd100k/images/10k`` and ``.../labels/sem_seg/masks``, or ``layout="seg"``: the older ``root/seg``."""
    splits = {"train": ["0004a4c0-d4dff0ad", "00054602-3bf57337"], "val": ["7d06fefd-f7be05a6"]}
    images, masks, suffix = {
        "bdd100k": ("bdd100k/images/10k", "bdd100k/labels/sem_seg/masks", ""),
        "seg": ("seg/images", "seg/labels", "_train_id"),
    }[layout]
    save(root / images / "test" / "ac6d4f42-00000000.jpg", random_image(size, _rng(seed, "test")))

    def paths(split: str, name: str) -> tuple[Path, Path]:
        return root / images / split / f"{name}.jpg", root / masks / split / f"{name}{suffix}.png"

    return _write(splits, size, seed, [*range(19), VOID], paths)


def ade20k_tree(root: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> Truth:
    """``root/ADEChallengeData2016``: in the files 0 is unlabelled and k is class k−1."""
    splits = {"train": ["ADE_train_00000001", "ADE_train_00000002"], "val": ["ADE_val_00000001", "ADE_val_00000002"]}
    base = root / "ADEChallengeData2016"

    def paths(split: str, name: str) -> tuple[Path, Path]:
        folder = {"train": "training", "val": "validation"}[split]
        return base / "images" / folder / f"{name}.jpg", base / "annotations" / folder / f"{name}.png"

    truth = _write(splits, size, seed, range(151), paths, lambda mask: np.where(mask == 0, VOID, mask - 1))
    (base / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n")
    return truth


def camvid_tree(root: Path, splits: Splits | None = None, size: tuple[int, int] = SIZE, seed: int = 0) -> Truth:
    """``root/{train,val,test}`` and ``root/{train,val,test}annot``: in the files 11 is void."""
    usual = {"train": ["0001TP_006690", "0001TP_006720"], "val": ["0016E5_07959"], "test": ["Seq05VD_f00000"]}

    def paths(split: str, name: str) -> tuple[Path, Path]:
        return root / split / f"{name}.png", root / f"{split}annot" / f"{name}.png"

    return _write(splits or usual, size, seed, range(12), paths, lambda mask: np.where(mask == 11, VOID, mask))


COCO_ABSENT = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Ids in COCO-Stuff's masks that never occur: labels without annotations."""


def coco_stuff_tree(
    root: Path, kind: str = "published", size: tuple[int, int] = SIZE, seed: int = 0, folders: Sequence[str] = ()
) -> Truth:
    """``root/images`` and ``root/annotations``: ids 0 to 181 without those above, or ``kind="labelTrainIds"``."""
    splits = {"train": ["000000000009", "000000000025"], "val": ["000000000139"]}
    images, masks = folders or ("images", "annotations")
    published = [number for number in range(182) if number not in COCO_ABSENT]
    reduced = np.full(256, VOID, np.uint8)
    reduced[published] = range(171)

    def paths(split: str, name: str) -> tuple[Path, Path]:
        end = "_labelTrainIds" if kind == "labelTrainIds" else ""
        return root / images / f"{split}2017" / f"{name}.jpg", root / masks / f"{split}2017" / f"{name}{end}.png"

    def save_mask(path: Path, mask: np.ndarray) -> None:
        save(path, mask if kind == "published" else reduced[mask])

    return _write(splits, size, seed, [*published, VOID], paths, lambda mask: reduced[mask], save_mask)


def context_tree(root: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> Truth:
    """``root/VOCdevkit/VOC2010`` with mmsegmentation's masks: 0 is the background and k is class k−1."""
    splits = {"train": ["2008_000002", "2008_000003"], "val": ["2008_000008"]}
    base = root / "VOCdevkit" / "VOC2010"
    for split, names in splits.items():
        _write_list(base / "ImageSets" / "SegmentationContext" / f"{split}.txt", names)

    def paths(split: str, name: str) -> tuple[Path, Path]:
        return base / "JPEGImages" / f"{name}.jpg", base / "SegmentationClassContext" / f"{name}.png"

    return _write(splits, size, seed, range(60), paths, lambda mask: np.where(mask == 0, VOID, mask - 1))


PAIR_CLASSES = """\
classes:
  - {name: ground, id: 1, colour: [128, 64, 0]}
  - {name: plant, id: 2, colour: [0, 160, 0]}
  - {name: water, id: 7, colour: [0, 0, 200]}
  - {name: unknown, id: 0, colour: [0, 0, 0], ignore: true}
"""
"""Class table of ``pairs_tree``: three classes and one that is not counted."""


def pairs_tree(
    root: Path, masks: str = "ids", splits: Splits | None = None, size: tuple[int, int] = SIZE, seed: int = 0
) -> Truth:
    """``root/{train,val}/{images,masks}`` with nested folders and ``root/classes.yaml``.

    Args:
        root: Folder to write to.
        masks: ``"ids"`` or ``"colours"``.
        splits: Samples by path below the folder, without suffix.
        size: (height, width).
        seed: Of the contents.
    """
    splits = splits or {"train": ["field/0001", "field/0002", "shore/0001"], "val": ["field/0003"]}
    colour_of = np.zeros((8, 3), np.uint8)
    colour_of[1], colour_of[2], colour_of[7] = (128, 64, 0), (0, 160, 0), (0, 0, 200)
    id_of = np.full(8, VOID, np.uint8)
    id_of[[1, 2, 7]] = [0, 1, 2]
    (root / "classes.yaml").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.yaml").write_text(PAIR_CLASSES)

    def paths(split: str, name: str) -> tuple[Path, Path]:
        return root / split / "images" / f"{name}.jpg", root / split / "masks" / f"{name}.png"

    def save_mask(path: Path, ids: np.ndarray) -> None:
        save(path, ids if masks == "ids" else colour_of[ids])

    return _write(splits, size, seed, [0, 1, 2, 7], paths, lambda ids: id_of[ids], save_mask)


TREES: dict[str, Callable[[Path], Truth]] = {
    "PascalVOC": voc_tree,
    "Cityscapes": cityscapes_tree,
    "BDD100K": bdd100k_tree,
    "ADE20K": ade20k_tree,
    "CamVid": camvid_tree,
    "FolderPairs": pairs_tree,
    "COCOStuff": coco_stuff_tree,
    "PascalContext": context_tree,
}
"""Writer of each data set's layout."""
