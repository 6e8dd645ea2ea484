"""The study of adversarial images at several sizes of the image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from robustseg.attacks import Attack
from robustseg.evaluation.attacking import CLEAN
from robustseg.evaluation.figures import keys_in
from robustseg.evaluation.measurements import Measurements
from robustseg.evaluation.records import record_name
from robustseg.evaluation.report.plots import Bar, bar_plot
from robustseg.models import MultiScale
from robustseg.studies.errors import StudyError
from robustseg.studies.study import (
    SCORE_COLUMNS,
    Answering,
    Study,
    StudyResult,
    check_attacks,
    percent,
    score_row,
)
from robustseg.studies.sweep import refuse_repeats

_AVERAGED = "averaged"


class MultiScaleEvaluation(Study):
    """Scores at several sizes of the image, and with the logits averaged over all sizes.

    Source: Gu et al., 2021, "Adversarial Examples on Segmentation Models Can be Easy to Transfer", Table 4. The images
    are attacked at full size. Then they are resized, the model is applied, and its logits are resized back, see
    :class:`~robustseg.models.MultiScale`. Full size is the attacked model itself, and shares the records of an
    evaluation.

    Args:
        attacks: The attacks by name.
        scales: Factors of height and width in (0, 10], each once.
        name: Name of the study's files.

    Raises:
        StudyError: There is no attack, or factors are outside of (0, 10], repeated or empty.
    """

    takes_targets = False

    def __init__(self, attacks: dict[str, Attack], scales: Sequence[float] = (0.5, 0.75, 1.0), name: str | None = None):
        super().__init__(name)
        self.varied = check_attacks(attacks)
        refuse_repeats("scales", scales)
        for scale in scales:
            if not 0 < scale <= 10:
                raise StudyError(f"scales = {list(scales)}: {scale} is no factor of a size, use 0.5 for half of it.")
        self.scales = sorted(scales)

    def attacks(self) -> dict[str, Attack]:  # noqa: D102
        return dict(self.varied)

    def answering(self, attacked: str, model: nn.Module, targets: Sequence[Answering]) -> list[Answering]:  # noqa: D102
        models = [
            Answering(f"{100 * scale:g} %", "" if scale == 1 else f"scale {scale:g}", _at(model, scale))
            for scale in self.scales
        ]
        if len(self.scales) > 1:
            key = f"scales {', '.join(f'{scale:g}' for scale in self.scales)}"
            models.append(Answering(_AVERAGED, key, MultiScale(model, self.scales)))
        return models

    def result(  # noqa: D102
        self, measured: Measurements, models: Sequence[Answering], class_names: Sequence[str]
    ) -> StudyResult:
        rows = [
            {
                "attack": attack,
                "scored_at": model.name,
                **score_row(measured, record_name(attack, model.key), None if attack == CLEAN else attack, class_names),
            }
            for attack in (CLEAN, *self.varied)
            for model in models
        ]
        names = [CLEAN, *self.varied]
        plots = []
        for key in keys_in("study plots"):
            cells = {(row["attack"], row["scored_at"]): Bar(percent(row, key)) for row in rows}
            series = {model.name: [cells[name, model.name] for name in names] for model in models}
            plots.append(bar_plot(f"{self.name}-{key}", f"{key} at each size", names, series, "%"))
        return StudyResult(
            "Scores at several sizes of the image",
            "Images are attacked at full size (100 %) and scored at each size. Where a smaller size brings the clean "
            "figures back, the attack depends on the size that it was made for.",
            {"attack": "attack", "scored_at": "scored at", **SCORE_COLUMNS},
            rows,
            plots,
        )


def _at(model: nn.Module, scale: float) -> nn.Module:
    return model if scale == 1 else MultiScale(model, [scale])
