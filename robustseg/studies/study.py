"""The base classes of studies: attacks to measure, models to score, and a table and plots of the results."""

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
    """A model that is scored on adversarial images."""

    name: str
    """Name in tables and plots."""
    key: str
    """Suffix of the names of its records; empty for the attacked model itself."""
    model: nn.Module


@dataclass(frozen=True)
class StudyResult:
    """The result of a study."""

    title: str
    text: str
    """Explanation of the rows and how to read them."""
    columns: Mapping[str, str]
    """Heading of each key of ``rows`` that the displayed table shows."""
    rows: Sequence[Mapping[str, Any]]
    """Rows as plain JSON, with shares in [0, 1] and None for NaN."""
    plots: Sequence[Plot]
    tables: Sequence[Table] = ()
    """Tables that replace the single table of ``rows``."""
    findings: Sequence[str] = ()
    """Findings, each a sentence."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the JSON file."""


class Measured(NamedTuple):
    """Measurements of all target models on the adversarial images of one attacked model, the source."""

    source: str
    found: Measurements
    models: Sequence[Answering]
    """The targets, in the same order for each source; the source itself has an empty key."""


class Study(ABC):
    """An experiment on a trained model: variations of an attack, or several models scored on its images.

    A study holds settings only; the model is passed to :meth:`answering`. Its attacks are measured by
    :mod:`robustseg.evaluation.benchmark` in the folder of the model's evaluation. Records there of the same name and
    settings, by ``robustseg evaluate`` or another study, are reused.

    Args:
        name: Name of the files, ``study_<name>.json`` and so on; by default the class's in lower case. Two studies of
            one class in one folder need different names.

    Raises:
        StudyError: The name has characters that a file's name should not have.
    """

    takes_targets = True
    """True if models other than the attacked one can be scored on the adversarial images."""

    def __init__(self, name: str | None = None):
        if name is not None and not re.fullmatch(r"[\w.-]+", name):
            raise StudyError(f"name = {name!r}: use letters, digits, hyphens, dots and underscores.")
        self.name = name or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    @abstractmethod
    def attacks(self) -> dict[str, Attack]:
        """Return the attacks to measure, by the names of their records."""

    def answering(self, attacked: str, model: nn.Module, targets: Sequence[Answering]) -> list[Answering]:
        """Return the models to score.

        Args:
            attacked: Name of the attacked model.
            model: The attacked model.
            targets: Further models to score.
        """
        return [Answering(attacked, "", model), *targets]

    def attacks_on(self, source: str) -> dict[str, Attack]:
        """Return the attacks to measure on one of several models, by the names of their records.

        Args:
            source: Name of the attacked model.
        """
        return self.attacks()

    def for_itself(self) -> Collection[str]:
        """Return the names of attacks whose images only the attacked model is scored on."""
        return ()

    def check_sources(self, sources: Mapping[str, Benchmark]) -> None:  # noqa: B027
        """Refuse models and images that do not fit the study's settings, before anything is measured.

        Args:
            sources: The evaluations, by the names of the attacked models.

        Raises:
            StudyError: They do not fit.
        """

    def views(self, source: str, of: Benchmark, models: Sequence[Answering]) -> dict[str, View]:
        """Return the views that record further values of the images, by name.

        Args:
            source: Name of the attacked model.
            of: The evaluation of the attacked model.
            models: The models of :meth:`answering`.
        """
        return {}

    @abstractmethod
    def result(self, measured: Measurements, models: Sequence[Answering], class_names: Sequence[str]) -> StudyResult:
        """Build the table and the plots.

        Args:
            measured: Measurements of all models under all attacks.
            models: The models of :meth:`answering`.
            class_names: Names of the C classes.
        """


class StudyAcrossModels(Study):
    """A study that can attack several models, and score all of them on each one's images."""

    @abstractmethod
    def across(self, sources: Sequence[Measured], class_names: Sequence[str]) -> StudyResult:
        """Build the tables and plots.

        Args:
            sources: Measurements on the images of each attacked model.
            class_names: Names of the C classes.
        """

    def result(  # noqa: D102
        self, measured: Measurements, models: Sequence[Answering], class_names: Sequence[str]
    ) -> StudyResult:
        return self.across([Measured(models[0].name, measured, models)], class_names)


def score_row(measured: Measurements, record: str, attack: str | None, class_names: Sequence[str]) -> dict[str, Any]:
    """Collect the scores, their confidence intervals and the attack's cost for a row.

    Args:
        measured: The measurements.
        record: Name of the records.
        attack: Name of the attack; None for clean images.
        class_names: Names of the C classes.

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
    """Return the attacks of a study as a dict.

    Raises:
        StudyError: There are none.
    """
    if not attacks:
        raise StudyError("attacks = {}: name at least one attack, such as pgd: {class_path: PGD}.")
    return dict(attacks)


def percent(row: Mapping[str, Any], key: str) -> float | None:
    """Convert a share in a row to percent, for plots; None stays None."""
    return None if row[key] is None else 100 * row[key]
