from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.paths import ROOT
from tests.training.unused_worker import CASES


def run(folder: Path, ranks: int, worker: str = "ddp_worker") -> dict:
    path = folder / f"{ranks}.pt"
    command = [sys.executable, "-m", f"tests.training.{worker}", str(path)]
    command += [str(ranks)] if worker == "ddp_worker" else []
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "MASTER_ADDR": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    with open(folder / "log", "w") as log:  # a file, since orphaned ranks would hold a pipe open
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=230, check=False)
    assert done.returncode == 0, (folder / "log").read_text()[-3000:]
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    return run(folder, 1), run(folder, 2)


@pytest.mark.slow
def test_gradients_of_two_ranks_are_those_of_the_concatenated_batch(runs):
    """The attack is in the loop, and the ranks have different numbers of valid pixels."""
    single, double = (result["gradients"] for result in runs)
    assert any(gradient.abs().max() > 1e-3 for gradient in single)
    for one, two in zip(single, double, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_uneven_validation_ends_and_scores_every_image_once(runs):
    single, double = (result["metrics"] for result in runs)
    assert {"val/miou", "val/pgd2/miou", "val/clean/miou", "val/pgd2/pixel_acc"} <= set(single)
    for name, value in single.items():
        torch.testing.assert_close(value, double[name], rtol=1e-5, atol=1e-6, msg=name)


AUX = {
    **dict.fromkeys(("PSPNet", "DeepLabV3", "FCN", "UPerNet"), r"network\.aux_head\."),
    "torchvision": r"network\.module\.aux_classifier\.",
    **dict.fromkeys(("dict", "values"), r"network\.module\.extra\."),
    "spare": r"network\.spare\.",
    "frozen": r"network\.(backbone|aux)\.",
    "compiled, without weight": r"network\.aux\.",
}
"""Parameters that a case of the worker does not train; all in other cases."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return run(tmp_path_factory.mktemp("unused"), 2, "unused_worker")


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case != "alternating"])
def test_two_ranks_train_all_parameters_but_those_without_part_in_the_loss(outcomes, case):
    outcome = outcomes[case]
    assert isinstance(outcome, list), outcome
    names = [name for name, _ in CASES[case]().model.named_parameters()]
    assert outcome == [name for name in names if case in AUX and re.match(AUX[case], name)]


@pytest.mark.slow
def test_parameters_that_take_turns_are_one_error_with_the_setting(outcomes):
    assert re.match(r"TrainingError: .*trainer\.strategy to ddp_find_unused_parameters_true", outcomes["alternating"])
