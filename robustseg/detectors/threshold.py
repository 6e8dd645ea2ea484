"""Thresholds on a detector's scores, and the area under its ROC curve."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustseg.detectors.detector import Detector
from robustseg.detectors.errors import DetectorError
from robustseg.files import write_json
from robustseg.opening.plain import read_json
from robustseg.opening.seal import sealed, unsealed

FORMAT = 1
"""Version of the threshold file."""


@dataclass(frozen=True)
class Threshold:
    """A score; images with lower ones count as adversarial.

    Attributes:
        value: The score.
        false_positive_rate: Largest share of the benign images that may be below it.
        images: Number of benign images used to fit it.
        detector: Settings of the detector that gave their scores.
    """

    value: float
    false_positive_rate: float
    images: int
    detector: dict[str, Any]

    @classmethod
    def fit(cls, detector: Detector, benign: Tensor, false_positive_rate: float = 0.05) -> Threshold:
        """Fit the largest threshold that keeps the false positives of benign images within the rate.

        With a rate of 0 it is the lowest benign score, as in Xiao et al., ECCV 2018, Sec. 5.2.

        Args:
            detector: The detector that gave the scores.
            benign: N scores of benign images, for example of the training split.
            false_positive_rate: Largest share of false positives, in [0, 1).

        Raises:
            DetectorError: There are no scores, some are not finite, all are the same, or the rate is out of range.
        """
        if not 0 <= false_positive_rate < 1:
            raise DetectorError(f"false_positive_rate = {false_positive_rate}: a share in [0, 1) expected, 0.05 say.")
        scores = benign.flatten().double()
        if not len(scores):
            raise DetectorError(
                "there are no benign images to fit a threshold on: give some, of the training split say."
            )
        if not bool(scores.isfinite().all()):
            raise DetectorError("some benign scores are not finite: leave out the images that could not be scored.")
        if len(scores) > 1 and bool((scores == scores[0]).all()):
            raise DetectorError(
                f"all {len(scores)} benign images have the score {scores[0]:g}, as of images that show a single class: "
                f"no threshold can be told from them; take others."
            )
        allowed = math.floor(false_positive_rate * len(scores) + 1e-9)
        return cls(float(scores.sort().values[allowed]), false_positive_rate, len(scores), detector.describe())

    def detects(self, scores: Tensor) -> Tensor:
        """Return True for each image that counts as adversarial: bool of the scores' shape."""
        return scores < self.value

    def save(self, path: str | Path) -> None:
        """Write the threshold as JSON."""
        write_json(sealed({"format": FORMAT, **asdict(self)}), path)

    @classmethod
    def load(cls, path: str | Path, detector: Detector) -> Threshold:
        """Read a threshold written by :meth:`save`.

        Args:
            path: The file.
            detector: The detector whose scores it will be applied to.

        Raises:
            DetectorError: The file is missing, damaged or of another format, or belongs to a detector with other
                settings.
        """
        try:
            content = unsealed(read_json(path))
            if content.pop("format") != FORMAT:
                raise DetectorError(f"{path} is of another format: fit the threshold again.")
            found = cls(**content)
            if not math.isfinite(found.value):
                raise ValueError(found.value)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, DetectorError):
                raise
            raise DetectorError(f"{path} holds no threshold ({type(error).__name__}): fit it again.") from error
        if found.detector != detector.describe():
            raise DetectorError(
                f"{path} was fitted for {found.detector}, and the detector is {detector.describe()}: fit it again, or "
                f"use the detector of the file."
            )
        return found


def auc(benign: Tensor, adversarial: Tensor) -> float:
    """Compute the area under the ROC curve.

    It is the probability that an adversarial image scores lower than a benign one; ties count half.
    Args:
        benign: N scores.
        adversarial: M scores.

    Raises:
        DetectorError: One of the sets is empty, or some scores are not finite.
    """
    if not len(benign) or not len(adversarial):
        raise DetectorError(
            f"{len(benign)} benign and {len(adversarial)} adversarial scores: an AUC needs at least one of each."
        )
    if not bool(benign.isfinite().all() and adversarial.isfinite().all()):
        raise DetectorError("some scores are not finite: leave out the images that could not be scored.")
    # Computed by its definition on all pairs, since torchmetrics' curve has only float32 precision.
    lower, equal = (compare(adversarial.double(), benign.double()[:, None]) for compare in (torch.lt, torch.eq))
    return float((lower.double() + equal.double() / 2).mean())
