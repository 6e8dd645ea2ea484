"""Data sets without a publisher: the user's own files, and drawn scenes."""

from __future__ import annotations

from robustseg.data.facts.row import Classes, DatasetFacts

_TOYS: Classes = (
    ("floor", (96, 96, 96)),
    ("ball", (228, 26, 28)),
    ("crate", (166, 86, 40)),
    ("tent", (77, 175, 74)),
    ("ring", (255, 217, 47)),
    ("flower", (231, 84, 190)),
    ("pencil", (55, 126, 184)),
)

FOLDER_PAIRS = DatasetFacts(
    name="FolderPairs",
    about="Folders of images and of masks of the same names, with a class table in a YAML file.",
    layout=(
        "{train,val,test}/images/**/*.jpg (PNG, BMP, TIFF, WebP): the images, in subfolders or not",
        "{train,val,test}/masks/**/*.png (TIFF, BMP, GIF, PGM): masks of the same relative paths, ids or colours of "
        "the class table",
    ),
    source="your own files, with a class table such as robustseg configs classes/example prints (data.classes)",
    licence="yours",
    config="data/folder_pairs",
    test_split="test, or val where there is no test folder",
)

SYNTHETIC_SCENES = DatasetFacts(
    name="SyntheticScenes",
    about="Toys on a textured floor, drawn from a seed: seven classes, for examples and tests without a download.",
    classes=_TOYS,
    layout=("nothing on disk: the scenes are drawn from a seed",),
    split_sizes={"train": 512, "val": 64, "test": 64},
    source="part of this package",
    licence="as this package",
    config="data/synthetic",
    test_split="test",
)
