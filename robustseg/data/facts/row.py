"""Facts about a data set, available without opening it or importing its reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Classes = tuple[tuple[str, tuple[int, int, int]], ...]
"""Name and RGB colour (0 to 255) of each class, in the order of the ids."""


@dataclass(frozen=True)
class DatasetFacts:
    """Description of one data set, and its table of classes."""

    name: str
    """Name of the class, as in ``data.class_path``."""
    about: str
    """One sentence, equal to the first line of the class's docstring."""
    layout: tuple[str, ...]
    """Files below ``root``, one kind per line."""
    source: str
    """Paper, and source of the files."""
    licence: str
    """Terms of use."""
    config: str
    """Shipped configuration of the data set."""
    classes: Classes = ()
    """Empty if a class table defines them."""
    split_sizes: Mapping[str, int] = field(default_factory=dict)
    """Images in each split as published; empty if the files determine them."""
    test_split: str = "val"
    """Split on which models are evaluated."""
    more_layout: tuple[str, ...] = ()
    """Further files, needed for an option."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their ids."""
        return tuple(name for name, _ in self.classes)
