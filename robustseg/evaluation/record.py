"""Figures of each image under one attack: size of the perturbation, success and cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from robustseg.attacks import AttackResult
from robustseg.devices import on_device
from robustseg.metrics import target_success
from robustseg.types import IGNORE_INDEX, ignored_pixels

FOOLED = 0.99
"""Share of the valid pixels that must be wrong for an image to count as fooled, as in the minimum-norm papers."""

COLUMNS = ("linf", "l2", "linf_8bit", "l2_8bit", "wrong", "forwards", "backwards", "seconds", "target_success", "rms")
"""Names of the figures of an image under an attack, in the order of :func:`image_figures`."""


def rounded(images: Tensor) -> Tensor:
    """Return images in [0, 1] as a saved 8-bit file has them, float64: each value is the nearest k/255.

    A rounded image may lie up to 0.5/255 outside of the threat model; it is not projected again.
    """
    return images.double().mul(255).round().div(255)


def named(rows: Tensor) -> dict[str, Tensor]:
    """Split N×K figures into columns by name.

    Args:
        rows: N×K, columns :data:`COLUMNS`, see :func:`image_figures`.

    Returns:
        N values by the name of their column.
    """
    return dict(zip(COLUMNS, rows.unbind(-1), strict=True))


def image_figures(
    result: AttackResult,
    images: Tensor,
    predictions: Tensor,
    targets: Tensor,
    seconds: float,
    wanted: Tensor | None = None,
    ignore_index: int | None = IGNORE_INDEX,
) -> Tensor:
    """Compute the figures of each image of a batch under one attack.

    Args:
        result: Result of the attack.
        images: B×3×H×W, the clean images in [0, 1].
        predictions: B×H×W class ids, on the adversarial images.
        targets: B×H×W class ids.
        seconds: Duration of the attack on the whole batch.
        wanted: B×H×W class ids, the target map of a targeted attack.
        ignore_index: Label of pixels that are not counted; None counts all.

    Returns:
        B×K float64, the columns :data:`COLUMNS`. Sizes are those of the perturbation, in units of the [0, 1] pixel
        range; those that end in ``_8bit`` are taken after the adversarial image was rounded to 8 bit. ``wrong`` is NaN
        for an image without valid pixels, ``target_success`` without a target map.
    """
    valid = ~ignored_pixels(targets, ignore_index)
    wrong = (valid & (predictions != targets)).flatten(1).sum(1) / valid.flatten(1).sum(1)
    nothing = torch.full((len(images),), float("nan"))
    clean = images.double()
    delta = (result.images_adv.double() - clean).flatten(1)
    # What remains of the perturbation in a PNG file.
    stored = (rounded(result.images_adv) - clean).flatten(1)
    found = {
        "linf": delta.abs().amax(1),
        "l2": delta.norm(dim=1),
        "linf_8bit": stored.abs().amax(1),
        "l2_8bit": stored.norm(dim=1),
        "wrong": wrong,
        "forwards": result.forwards,
        "backwards": result.backwards,
        "seconds": torch.full((len(images),), seconds / len(images)),
        "target_success": nothing if wanted is None else target_success(predictions, wanted, targets, ignore_index),
        "rms": delta.square().mean(1).sqrt(),
    }
    return torch.stack([on_device(found[name], images.device).double() for name in COLUMNS], 1)


def summarise(rows: Tensor, fooled: float = FOOLED) -> dict[str, Tensor]:
    """Compute the figures of a data set under one attack from those of its images.

    Args:
        rows: N×K, columns :data:`COLUMNS`.
        fooled: Share of the valid pixels that must be wrong for an image to count as fooled.

    Returns:
        ``forwards``, ``backwards`` and ``seconds`` per image; ``without_valid_pixels``, the number of images that were
        not attacked; ``target_success``, the mean over the images of the share of pixels that show the target, of
        those whose true label is another (NaN for attacks without a target map); ``fooled_share``, the share of the
        attacked images with at least ``fooled`` of their valid pixels wrong; and over these ``fooled_linf`` and
        ``fooled_l2``, the median size of the perturbation (NaN without any); ``linf_max``, ``l2_max``,
        ``linf_max_8bit``, ``l2_max_8bit`` and ``rms_max`` over all images.
    """
    of = named(rows)
    # NaN without valid pixels.
    valid = of["wrong"].isfinite()
    is_fooled = of["wrong"] >= fooled - 1e-9
    return {
        **{name: of[name].mean() for name in ("forwards", "backwards", "seconds")},
        "without_valid_pixels": (~valid).sum(),
        "target_success": of["target_success"].nanmean(),
        "fooled_share": is_fooled.sum() / valid.sum(),
        "fooled_linf": _median(of["linf"][is_fooled]),
        "fooled_l2": _median(of["l2"][is_fooled]),
        "linf_max": of["linf"].amax(),
        "l2_max": of["l2"].amax(),
        "linf_max_8bit": of["linf_8bit"].amax(),
        "l2_max_8bit": of["l2_8bit"].amax(),
        "rms_max": of["rms"].amax(),
    }


class AttackRecord(Metric):
    """Metric that gathers :func:`image_figures` of one attack from all ranks; it keeps a few numbers per image.

    Args:
        fooled: Share of the valid pixels that must be wrong for an image to count as fooled.
    """

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, fooled: float = FOOLED, **kwargs: Any):
        super().__init__(**kwargs)
        self.fooled = fooled
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, rows: Tensor) -> None:
        """Add the figures of a batch, B×K, columns :data:`COLUMNS`."""
        self.rows.append(rows)

    def compute(self) -> dict[str, Tensor]:
        """Compute :func:`summarise` over all images."""
        return summarise(dim_zero_cat(self.rows), self.fooled)


def _median(values: Tensor) -> Tensor:
    """Return the median; the mean of the two middle values for an even number, NaN without any."""
    return values.quantile(0.5) if len(values) else values.new_full((), float("nan"))
