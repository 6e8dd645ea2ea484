"""Catalogue of the data sets, for the choice of one."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Sequence

from robustseg.data.errors import DataError
from robustseg.data.facts import DATASETS, DatasetFacts

_WIDTH = 100
"""Columns of the printed text."""


def find_dataset(name: str) -> DatasetFacts:
    """Find the facts about a data set by its name, in upper or lower case.

    Raises:
        DataError: There is no such data set; the message names the nearest.
    """
    rows = {facts.name.lower(): facts for facts in DATASETS}
    if name.lower() in rows:
        return rows[name.lower()]
    near = [key for key in rows if name.lower() in key or key in name.lower()] if name else []
    near = near or difflib.get_close_matches(name.lower(), rows, n=3, cutoff=0.5)
    names = [rows[key].name for key in near]
    suggestion = (
        f"did you mean {' or '.join(names)}?" if names else f"there are {', '.join(r.name for r in rows.values())}."
    )
    raise DataError(f"there is no data set {name!r}: {suggestion}")


def describe(facts: DatasetFacts, full: bool = False) -> str:
    """Describe a data set in words, in lines of at most 100 columns.

    Args:
        facts: Facts about the data set.
        full: Name all classes.
    """
    sizes = ", ".join(f"{split} {size}" for split, size in facts.split_sizes.items()) or "as many as there are files"
    layout = facts.layout
    if facts.more_layout:
        first, second = facts.more_layout
        layout = (*layout, f"for train_list: trainaug also {first}", f"or {second}")
    classes = f"{len(facts.class_names)} classes" if facts.class_names else "classes from a table"
    lines = [
        f"{facts.name} ({classes})",
        *textwrap.wrap(facts.about, _WIDTH, initial_indent="  ", subsequent_indent="  "),
    ]
    lines += _wrap("images", [f"{sizes}; scored on {facts.test_split}"])
    lines += _wrap("below root", layout)
    lines += (
        _wrap("source", [facts.source])
        + _wrap("licence", [facts.licence])
        + _wrap("start with", [f"--config {facts.config}"])
    )
    if full and facts.class_names:
        names = (f"{number}\xa0{name}" for number, name in enumerate(facts.class_names))
        lines += [line.replace("\xa0", " ") for line in _wrap("class ids", [", ".join(names)])]
    return "\n".join(lines)


def _wrap(title: str, paragraphs: Sequence[str]) -> list[str]:
    """Wrap paragraphs in a column, with a title beside the first."""
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
