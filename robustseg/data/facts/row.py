"""The facts about a data set, readable without opening it or importing what reads its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Classes = tuple[tuple[str, tuple[int, int, int]], ...]
"""Name and RGB colour (0 to 255) of each class, in the order of the ids."""


@dataclass(frozen=True)
class DatasetFacts:
    """One data set in words, for people who choose one, and its table of classes."""

    name: str
    """Class, as in ``data.class_path``."""
    about: str
    """One sentence, with which the class's docstring begins."""
    layout: tuple[str, ...]
    """Files below ``root``, one kind per line."""
    source: str
    """Paper, and where to get the files."""
    licence: str
    """Under what terms they may be used."""
    config: str
    """A configuration to start from."""
    classes: Classes = ()
    """Empty where a class table says them."""
    split_sizes: Mapping[str, int] = field(default_factory=dict)
    """Images in each split as published; empty where that is up to the files."""
    test_split: str = "val"
    """Which split scores are measured on."""
    more_layout: tuple[str, ...] = ()
    """Further files, one of which an option asks for."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their ids."""
        return tuple(name for name, _ in self.classes)
