"""The study of attacks' convergence, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from robustseg.attacks import Attack
from robustseg.evaluation.measurements import Measurements
from robustseg.evaluation.report import Curve
from robustseg.evaluation.report.drawing import Plot
from robustseg.evaluation.report.plots import curve_plot
from robustseg.evaluation.trace import COLUMNS, Traced
from robustseg.studies.errors import StudyError
from robustseg.studies.study import Answering, Study, StudyResult, check_attacks
from robustseg.studies.sweep import check_steps, numbered
from robustseg.studies.vary import with_steps

_HEADINGS = {"attack": "attack", "step": "step", "misratio": "MisRatio, %", "tloss": "TLoss", "floss": "FLoss"}
_PLOTS = {
    "misratio": ("MisRatio", "MisRatio, %", 100),
    "tloss": ("TLoss", "loss per valid pixel", 1),
    "floss": ("FLoss", "loss per valid pixel", 1),
    "floss_share": ("Share of FLoss in the loss", "%", 100),
}
"""Title, label and unit of each figure's plot."""
_TICKS = 10


class Convergence(Study):
    """MisRatio, TLoss and FLoss of attacks after each step (Gu et al., ECCV 2022, Sec. 3.2 and Fig. 1).

    All are over the valid pixels of all images. ``misratio`` is the share of wrong pixels. ``tloss`` is the
    cross-entropy summed over the correct pixels and ``floss`` over the wrong ones, both divided by the number of all
    valid pixels: their sum is the mean loss. Step 0 is the start, after its noise, and step T the result.

    Args:
        attacks: The attacks by name, each a single run that returns its last iterate.
        steps: Number of steps T of each attack.
        name: Name of the study's files.

    Raises:
        StudyError: There is no attack, one has no iterates to watch, or ``steps`` is below 1.
    """

    takes_targets = False

    def __init__(self, attacks: dict[str, Attack], steps: int, name: str | None = None):
        super().__init__(name)
        (self.steps,) = check_steps([steps])
        self.traced = {each: _traced(each, attack, self.steps) for each, attack in check_attacks(attacks).items()}

    def attacks(self) -> dict[str, Attack]:  # noqa: D102
        return {self._record(name): attack for name, attack in self.traced.items()}

    def _record(self, name: str) -> str:
        return f"{numbered(name, self.steps)} traced"

    def result(  # noqa: D102
        self, measured: Measurements, models: Sequence[Answering], class_names: Sequence[str]
    ) -> StudyResult:
        rows = [row for name in self.traced for row in self._rows(name, measured)]
        return StudyResult(
            "Convergence of attacks, step by step",
            "MisRatio is the share of valid pixels that are wrong; TLoss is the cross-entropy of the correct pixels, "
            "FLoss that of the wrong ones, both divided by all valid pixels. An attack that spends its steps on FLoss "
            "raises the loss of pixels that are wrong already.",
            {**_HEADINGS, "floss_share": "FLoss of the loss, %"},
            rows,
            self._plots(rows),
        )

    def _rows(self, name: str, measured: Measurements) -> list[dict[str, Any]]:
        record = self._record(name)
        if record in measured.refused:
            nothing = dict.fromkeys(("step", "misratio", "tloss", "floss", "floss_share"))
            return [{"attack": name, **nothing, "record": record, "error": measured.refused[record]}]
        rows = []
        # All images' pixels have the same weight, as in pixel accuracy.
        for step, total in enumerate(torch.stack(measured.values[record]).sum(0).view(-1, len(COLUMNS)).tolist()):
            valid, wrong, tloss, floss = total
            figures = {"misratio": wrong / valid, "tloss": tloss / valid, "floss": floss / valid} if valid else {}
            figures = {key: figures.get(key) for key in ("misratio", "tloss", "floss")}
            share = floss / (tloss + floss) if tloss + floss > 0 else None
            rows.append(
                {"attack": name, "step": step, **figures, "floss_share": share, "record": record, "error": None}
            )
        return rows

    def _plots(self, rows: Sequence[Mapping[str, Any]]) -> list[Plot]:
        ran = [name for name in self.traced if any(row["attack"] == name and row["error"] is None for row in rows)]
        every = max(1, -(-self.steps // _TICKS))
        ticks = [str(step) if step % every == 0 else "" for step in range(self.steps + 1)]
        drawn = []
        # TLoss is much smaller than FLoss: in a common plot it would be invisible.
        for key, (title, label, factor) in _PLOTS.items():
            lines = {
                name: [None if row[key] is None else factor * row[key] for row in rows if row["attack"] == name]
                for name in ran
            }
            curve = Curve(title, "step", label, range(self.steps + 1), lines, ticks)
            drawn.append(curve_plot(f"{self.name}-{key.replace('_', '-')}", curve))
        return drawn if ran else []


def _traced(name: str, attack: Attack, steps: int) -> Traced:
    try:
        return Traced(with_steps(name, attack, steps))
    except StudyError:
        raise
    except ValueError as error:
        raise StudyError(f"attacks.{name}: {error}") from None
