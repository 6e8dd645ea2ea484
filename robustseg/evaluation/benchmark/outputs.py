"""Check of a model's outputs against the classes of the data."""

from __future__ import annotations

from robustseg.data import SegmentationData
from robustseg.evaluation import EvaluationError
from robustseg.models import SegmentationModel


def check_outputs(model: SegmentationModel, data: SegmentationData, targets: str, count_void: bool) -> None:
    """Refuse a model whose classes beside void are not the data's, and void pixels that nothing stands for.

    Raises:
        EvaluationError: They do not fit.
    """
    void, name = model.void_class, type(data).__name__
    if void is not None and getattr(data, "count_void", False):
        raise EvaluationError(
            f"model.void_class = {void} is for pixels that the data ignores, and data.count_void makes {name} "
            "count them as a class: leave one of the two out."
        )
    if model.outputs and model.num_scored != data.num_classes:
        raise EvaluationError(
            f"model.drop_classes = {list(model.drop_classes)} and model.void_class = {void} leave "
            f"{model.num_scored} classes, and {name} has {data.num_classes}: name the outputs that the "
            "data has no class for."
        )
    if count_void and void is None:
        raise EvaluationError(
            "robustness.count_void counts ignored pixels as the model's void class, and it has none: set "
            "model.void_class to that output of the network, or leave count_void out."
        )
    if count_void and targets == "predictions":
        raise EvaluationError(
            "robustness.count_void: with targets: predictions no pixel is ignored: leave count_void out."
        )
