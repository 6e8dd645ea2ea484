"""The transfer of adversarial images between models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustseg.attacks import Attack
from robustseg.evaluation.attacking import CLEAN
from robustseg.evaluation.figures import keys_in
from robustseg.evaluation.records import record_name
from robustseg.evaluation.report.drawing import Plot
from robustseg.evaluation.report.plots import heat_plot
from robustseg.evaluation.report.wording import percent as shown
from robustseg.evaluation.table import Table
from robustseg.studies.errors import StudyError
from robustseg.studies.study import Measured, StudyAcrossModels, StudyResult, check_attacks, percent, score_row

_SHOWN = keys_in("study plots")


class TransferMatrix(StudyAcrossModels):
    """Scores of every model on adversarial images of every model.

    Source: Gu et al., 2021, "Adversarial Examples on Segmentation Models Can be Easy to Transfer", Tables 1 and 2: the
    lower a target's mIoU, the better the images of the source transfer. On the diagonal, source and target are the same
    model: the white-box attack.

    Args:
        attacks: The attacks by name.
        comparisons: Pairs of attacks; the second is expected to transfer better. The study reports the number of pairs
            of different models on which it does.
        name: Name of the study's files.

    Raises:
        StudyError: There is no attack, or a comparison is not between two of them.
    """

    def __init__(
        self, attacks: dict[str, Attack], comparisons: list[tuple[str, str]] | None = None, name: str | None = None
    ):
        super().__init__(name or "transfer")
        self.varied = check_attacks(attacks)
        self.comparisons = [tuple(pair) for pair in comparisons or []]
        for pair in self.comparisons:
            unknown = [attack for attack in pair if attack not in self.varied]
            if unknown:
                raise StudyError(f"comparisons name {unknown[0]!r}, but attacks has: {', '.join(self.varied)}.")
            if len(set(pair)) < 2:
                raise StudyError(f"comparisons = {list(pair)}: compare an attack with another one.")

    def attacks(self) -> dict[str, Attack]:  # noqa: D102
        return dict(self.varied)

    def across(self, sources: Sequence[Measured], class_names: Sequence[str]) -> StudyResult:  # noqa: D102
        rows = [
            {
                "attack": CLEAN,
                "source": None,
                "target": model.name,
                "white_box": None,
                **score_row(sources[0].found, record_name(CLEAN, model.key), None, class_names),
            }
            for model in sources[0].models
        ]
        rows += [
            {
                "attack": attack,
                "source": source.source,
                "target": model.name,
                "white_box": model.name == source.source,
                **score_row(source.found, record_name(attack, model.key), attack, class_names),
            }
            for attack in self.varied
            for source in sources
            for model in source.models
        ]
        compared = [self._compared(rows, *pair) for pair in self.comparisons]
        columns = {"attack": "attack", "source": "source", "target": "target", "miou": "miou, %"}
        return StudyResult(
            "Transfer of adversarial images between models",
            "Rows are the models that images were made on, columns the models that they are shown to; the first row "
            "is that of the clean images. Low figures off the diagonal mean that the images transfer. The white-box "
            "cells are framed in the plots.",
            {**columns, "pixel_acc": "pixel_acc, %"},
            rows,
            self._plots(rows, sources),
            [*self._tables(rows, sources), *[_pairs_table(each) for each in compared]],
            [_sentence(each) for each in compared],
            {"comparisons": compared},
        )

    def _compared(self, rows: Sequence[Mapping[str, Any]], weaker: str, stronger: str) -> dict[str, Any]:
        """Count the pairs of different models on which ``stronger`` leaves a lower figure than ``weaker``."""
        cells = {(row["attack"], row["source"], row["target"]): row for row in rows if row["white_box"] is False}
        pairs = []
        for attack, source, target in cells:
            if attack != weaker:
                continue
            before, after = cells[weaker, source, target], cells[stronger, source, target]
            figures = {key: {weaker: before[key], stronger: after[key]} for key in _SHOWN}
            pairs.append({"source": source, "target": target, **figures})
        known = {key: [p[key] for p in pairs if None not in p[key].values()] for key in _SHOWN}
        won = {key: sum(figures[stronger] < figures[weaker] for figures in known[key]) for key in _SHOWN}
        counts = {key: {"stronger": won[key], "pairs": len(known[key])} for key in _SHOWN}
        return {"weaker": weaker, "stronger": stronger, **counts, "by_pair": pairs}

    def _tables(self, rows: Sequence[Mapping[str, Any]], sources: Sequence[Measured]) -> list[Table]:
        names = [model.name for model in sources[0].models]
        tables = []
        for key in _SHOWN:
            cells = {(row["attack"], row["source"], row["target"]): shown(row[key]) for row in rows}
            lines = [["clean", "", *(cells[CLEAN, None, name] for name in names)]]
            for attack in self.varied:
                lines += [[attack, s.source, *(cells[attack, s.source, name] for name in names)] for s in sources]
            tables.append(Table.of(f"{key} of the target, %", ["attack", "made on", *names], lines, 2))
        return tables

    def _plots(self, rows: Sequence[Mapping[str, Any]], sources: Sequence[Measured]) -> list[Plot]:
        names, origins = [model.name for model in sources[0].models], [source.source for source in sources]
        plots = []
        for key in _SHOWN:
            cells = {(row["attack"], row["source"], row["target"]): percent(row, key) for row in rows}
            clean = [cells[CLEAN, None, name] for name in names]
            highest = max((figure for figure in clean if figure is not None), default=100.0)
            for place, attack in enumerate(self.varied):
                values = [clean, *([cells[attack, origin, name] for name in names] for origin in origins)]
                own = [(1 + row, names.index(origin)) for row, origin in enumerate(origins) if origin in names]
                title = f"{key} of the target under {attack}, %"
                plot_name, labels = f"{self.name}-{key}-{place}", ("made on", "shown to")
                lines = ["clean", *origins]
                plots.append(heat_plot(plot_name, title, lines, names, values, labels, highest, own))
        return plots


def _sentence(compared: Mapping[str, Any]) -> str:
    weaker, stronger = compared["weaker"], compared["stronger"]
    counts = ", ".join(f"{compared[key]['stronger']} of {compared[key]['pairs']} in {key}" for key in _SHOWN)
    exceptions = [
        f"{pair['source']} → {pair['target']}"
        for pair in compared["by_pair"]
        if None not in pair["miou"].values() and not pair["miou"][stronger] < pair["miou"][weaker]
    ]
    exception = f" Not in miou: {', '.join(exceptions)}." if exceptions else ""
    return f"{stronger} leaves less than {weaker} on pairs of different models: {counts}.{exception}"


def _pairs_table(compared: Mapping[str, Any]) -> Table:
    weaker, stronger = compared["weaker"], compared["stronger"]
    headings = ["made on", "shown to", *(f"{key} {attack}" for key in _SHOWN for attack in (weaker, stronger))]
    rows = [
        [p["source"], p["target"], *(shown(p[key][attack]) for key in _SHOWN for attack in (weaker, stronger))]
        for p in compared["by_pair"]
    ]
    return Table.of(f"{weaker} against {stronger} on pairs of different models, %", headings, rows, 2)
