"""What data sets there are, for people who choose one."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robustseg.data.ade20k import ADE20K
from robustseg.data.bdd100k import BDD100K
from robustseg.data.camvid import CamVid
from robustseg.data.cityscapes import Cityscapes
from robustseg.data.errors import DataError
from robustseg.data.file_module import FileDataModule
from robustseg.data.folder_pairs import FolderPairs
from robustseg.data.synthetic import SyntheticScenes
from robustseg.data.voc import PascalVOC

_CONFIGS: dict[type[FileDataModule], str] = {
    ADE20K: "ade20k",
    BDD100K: "bdd100k",
    CamVid: "camvid",
    Cityscapes: "cityscapes",
    FolderPairs: "folder_pairs",
    PascalVOC: "voc",
}
"""Name of each data set's configuration."""
_WIDTH = 100
"""Columns of the printed text."""


@dataclass(frozen=True)
class DatasetRow:
    """One data set of the catalogue."""

    name: str
    """Class, as in ``data.class_path``."""
    about: str
    """One sentence."""
    class_names: tuple[str, ...]
    """Empty where a class table says them."""
    split_sizes: Mapping[str, int]
    """Images in each split as published; empty where that is up to the files."""
    layout: tuple[str, ...]
    """Files below ``root``."""
    source: str
    """Paper, and where to get the files."""
    licence: str
    config: str
    """The shipped configuration to start from."""
    test_split: str
    """Which split scores are measured on."""


def datasets() -> list[DatasetRow]:
    """All data sets, by name."""
    rows = [_row(module) for module in _CONFIGS]
    rows.append(
        DatasetRow(
            SyntheticScenes.__name__,
            _about(SyntheticScenes),
            tuple(name for name, _ in SyntheticScenes.classes),
            {"train": 512, "val": 64, "test": 64},
            ("nothing on disk: the scenes are drawn from a seed",),
            "part of this package",
            "as this package",
            "data/synthetic",
            "test",
        )
    )
    return rows


def find_dataset(name: str) -> DatasetRow:
    """The data set of a name, in any case.

    Raises:
        DataError: There is none; the message names the nearest.
    """
    rows = {row.name.lower(): row for row in datasets()}
    if name.lower() in rows:
        return rows[name.lower()]
    near = [key for key in rows if name.lower() in key or key in name.lower()] if name else []
    near = near or difflib.get_close_matches(name.lower(), rows, n=3, cutoff=0.5)
    names = [rows[key].name for key in near]
    suggestion = (
        f"did you mean {' or '.join(names)}?" if names else f"there are {', '.join(r.name for r in rows.values())}."
    )
    raise DataError(f"there is no data set {name!r}: {suggestion}")


def _row(module: type[FileDataModule]) -> DatasetRow:
    layout = module.layout
    if module is PascalVOC:
        first, second = PascalVOC.aug_layout
        layout = (*layout, f"for train_list: trainaug also {first}", f"or {second}")
    return DatasetRow(
        module.__name__,
        _about(module),
        tuple(name for name, _ in module.classes),
        module.split_sizes,
        layout,
        module.source,
        module.licence,
        f"data/{_CONFIGS[module]}",
        "test, or val where there is no test folder" if module in (CamVid, FolderPairs) else "val",
    )


def _about(module: type) -> str:
    return (module.__doc__ or "").strip().splitlines()[0]


def describe(row: DatasetRow, full: bool = False) -> str:
    """A data set in words, in lines of at most 100 columns.

    Args:
        row: The data set.
        full: Name all classes.
    """
    sizes = ", ".join(f"{split} {size}" for split, size in row.split_sizes.items()) or "as many as there are files"
    classes = f"{len(row.class_names)} classes" if row.class_names else "classes from a table"
    lines = [f"{row.name} ({classes})", *textwrap.wrap(row.about, _WIDTH, initial_indent="  ", subsequent_indent="  ")]
    lines += _wrap("images", [f"{sizes}; scored on {row.test_split}"])
    lines += _wrap("below root", row.layout)
    lines += _wrap("source", [row.source]) + _wrap("licence", [row.licence])
    lines += _wrap("start with", [f"--config {row.config}"])
    if full and row.class_names:
        names = (f"{number}\xa0{name}" for number, name in enumerate(row.class_names))
        lines += [line.replace("\xa0", " ") for line in _wrap("class ids", [", ".join(names)])]
    return "\n".join(lines)


def _wrap(title: str, paragraphs: Sequence[str]) -> list[str]:
    """Paragraphs in a column, with a title beside the first."""
    lines: list[str] = []
    for paragraph in paragraphs:
        head = title if not lines else ""
        lines += textwrap.wrap(
            paragraph,
            _WIDTH,
            initial_indent=f"  {head:11}",
            subsequent_indent=" " * (13 if len(paragraphs) == 1 else 15),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines
