"""Real data and published weights, where this machine has them."""

import os
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT


def camvid() -> Path:
    """The folder of CamVid; skips the test without it."""
    root = Path(os.environ.get("ROBUSTSEG_CAMVID", ROOT / "data" / "camvid"))
    if not (root / "train").is_dir():
        pytest.skip(f"no CamVid in {root}: set ROBUSTSEG_CAMVID to the folder that holds train and trainannot")
    return root


def published() -> Path:
    """The folder of published checkpoints; skips the test without it."""
    root = Path(os.environ.get("ROBUSTSEG_PUBLISHED", ROOT / "data" / "published"))
    if not (root / "espnet_p2_q8_camvid.pth").is_file():
        pytest.skip(f"no espnet_p2_q8_camvid.pth in {root}: set ROBUSTSEG_PUBLISHED to the folder that holds it")
    return root
