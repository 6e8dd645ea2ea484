"""What a study is: attacks to measure, models that answer, and a table and plots of what was measured."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from robustseg.attacks import Attack
from robustseg.evaluation.benchmark import Benchmark
from robustseg.evaluation.build_card import scores
from robustseg.evaluation.figures import SCORES, shown_in
from robustseg.evaluation.measurements import Measurements
from robustseg.evaluation.record import summarise
from robustseg.evaluation.report.drawing import Plot
from robustseg.evaluation.table import Table
from robustseg.evaluation.views import View
from robustseg.studies.errors import StudyError

SCORE_COLUMNS = {
    figure.key: f"{figure.heading}, %" if figure.unit == "share" else figure.heading for figure in shown_in("study")
}
"""Figures in every study's rows, with their headings."""


class Answering(NamedTuple):
    """A model that is shown adversarial images."""

    name: str
    """In tables and plots."""
    key: str
    """In the names of records; empty for the attacked model itself."""
    model: nn.Module


@dataclass(frozen=True)
class StudyResult:
    """What a study found."""

    title: str
    text: str
    """What the rows are, and what to look for."""
    columns: Mapping[str, str]
    """Heading of each key that the table for people shows."""
    rows: Sequence[Mapping[str, Any]]
    """Plain JSON; shares are in [0, 1], NaN is None."""
    plots: Sequence[Plot]
    tables: Sequence[Table] = ()
    """In place of the one table of ``rows``."""
    findings: Sequence[str] = ()
    """Sentences."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More for the JSON file."""


class Measured(NamedTuple):
    """What the adversarial images of one source did to all targets."""

    source: str
    found: Measurements
    models: Sequence[Answering]
    """The targets, in the same order for each source; the source itself has no key."""


class Study(ABC):
    """An experiment on a trained model: one attack varied, or shown to several models.

    A study holds settings only; the model arrives with :meth:`answering`. Its attacks are measured by the machinery of
    :mod:`robustseg.evaluation.benchmark`, in the evaluation's own folder: what ``robustseg evaluate`` or another study
    measured there under the same name with the same settings is not measured again.

    Args:
        name: Of the files, ``study_<name>.json`` and so on; by default the class's, in lower case. Two studies of one
            class need two names to stand in one folder.

    Raises:
        StudyError: The name cannot be part of a file's.
    """

    takes_targets = True
    """Whether adversarial images can be shown to other models than the attacked one."""

    def __init__(self, name: str | None = None):
        if name is not None and not re.fullmatch(r"[\w.-]+", name):
            raise StudyError(f"name = {name!r}: use letters, digits, hyphens, dots and underscores.")
        self.name = name or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    @abstractmethod
    def attacks(self) -> dict[str, Attack]:
        """What to measure, by the name of the records."""

    def answering(self, attacked: str, model: nn.Module, targets: Sequence[Answering]) -> list[Answering]:
        """The models to score.

        Args:
            attacked: What the attacked model is called.
            model: The attacked model.
            targets: Further models.
        """
        return [Answering(attacked, "", model), *targets]

    def attacks_on(self, source: str) -> dict[str, Attack]:
        """What to measure on one of several models, by the name of the records.

        Args:
            source: Name of the attacked model.
        """
        return self.attacks()

    def for_itself(self) -> Collection[str]:
        """Names of attacks whose images only the attacked model is shown, not the others."""
        return ()

    def check_sources(self, sources: Mapping[str, Benchmark]) -> None:  # noqa: B027
        """Refuse models and images that the study's settings do not fit, before anything is measured.

        Args:
            sources: By name of the attacked model, what is evaluated.

        Raises:
            StudyError: They do not fit.
        """

    def views(self, source: str, of: Benchmark, models: Sequence[Answering]) -> dict[str, View]:
        """What else looks at the images, by name.

        Args:
            source: Name of the attacked model.
            of: What is evaluated.
            models: Those of :meth:`answering`.
        """
        return {}

    @abstractmethod
    def result(self, measured: Measurements, models: Sequence[Answering], class_names: Sequence[str]) -> StudyResult:
        """The table and the plots.

        Args:
            measured: Of all attacks on all models.
            models: Those of :meth:`answering`.
            class_names: C names.
        """


class StudyAcrossModels(Study):
    """A study that can attack several models, and show the images of each to all."""

    @abstractmethod
    def across(self, sources: Sequence[Measured], class_names: Sequence[str]) -> StudyResult:
        """The tables and plots.

        Args:
            sources: What the images of each attacked model did.
            class_names: C names.
        """

    def result(  # noqa: D102
        self, measured: Measurements, models: Sequence[Answering], class_names: Sequence[str]
    ) -> StudyResult:
        return self.across([Measured(models[0].name, measured, models)], class_names)


def score_row(measured: Measurements, record: str, attack: str | None, class_names: Sequence[str]) -> dict[str, Any]:
    """Scores, their intervals and what they cost, for a row.

    Args:
        measured: What was measured.
        record: Name of the records.
        attack: Name of the attack that they are of; None for clean images.
        class_names: C names.

    Returns:
        Scores, ``confidence``, ``images``, what else a study shows (0 of clean images) and ``error``: why the
        attack could not run on this model, in which case the rest is None.
    """
    if record in measured.refused:
        return {**dict.fromkeys((*SCORE_COLUMNS, "confidence")), "images": 0, "error": measured.refused[record]}
    found = scores(measured.counts[record], class_names)
    row = {key: found[key] for key in (*SCORES, "confidence", "images")}
    cost = {key: 0.0 for key in SCORE_COLUMNS if key not in SCORES}
    if attack is not None:
        summary = summarise(measured.figures[record])
        cost = {key: float(summary[key]) for key in cost}
    return {**row, **cost, "error": None}


def check_attacks(attacks: Mapping[str, Attack] | None) -> dict[str, Attack]:
    """The attacks of a study.

    Raises:
        StudyError: There are none.
    """
    if not attacks:
        raise StudyError("attacks = {}: name at least one attack, such as pgd: {class_path: PGD}.")
    return dict(attacks)


def percent(row: Mapping[str, Any], key: str) -> float | None:
    """A share of a row in percent, for plots."""
    return None if row[key] is None else 100 * row[key]
