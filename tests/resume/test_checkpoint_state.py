"""Altered and incomplete training states: refused with the file and the key, before anything is trained."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from robustseg.cli.main import main
from robustseg.resume.checkpoint_reading import CheckpointError
from robustseg.resume.checkpoint_state import check_state, outlines
from tests.helpers.paths import ROOT

RUN = ROOT / "tests" / "fixtures" / "v01" / "v01" / "version_0"
GONE = object()
WEIGHT = "model.network.backbone.features.0.weight"
MODEL_CHECKPOINT = object()
NAN = torch.full((2, 3, 3, 3), float("nan"))
FIT = ("loops", "fit_loop")
CASES: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "no optimiser": (("optimizer_states",), [], "optimizer_states is empty"),
    "an empty optimiser": (("optimizer_states", 0, "state"), {}, r"optimizer_states\[0\].state is empty"),
    "optimisers in a dict": (("optimizer_states",), {}, "optimizer_states is a dict"),
    "an optimiser that is a text": (("optimizer_states", 0), "x", r"optimizer_states\[0\] has no parameter groups"),
    "no groups": (("optimizer_states", 0, "param_groups"), [], "has no parameter groups"),
    "a group without parameters": (("optimizer_states", 0, "param_groups", 1, "params"), GONE, r"groups\[1\] has no"),
    "a rate that is a text": (("optimizer_states", 0, "param_groups", 0, "lr"), "x", "lr = 'x' is no learning rate"),
    "momentum of a shape": (("optimizer_states", 0, "state", 0, "momentum_buffer"), torch.ones(77), r"shape \(77,\)"),
    "momentum that is NaN": (("optimizer_states", 0, "state", 0, "momentum_buffer"), NAN, "are not finite"),
    "momentum that is a text": (("optimizer_states", 0, "state", 0, "momentum_buffer"), "x", "momentum_buffer is 'x'"),
    "no loops": (("loops",), GONE, "loops is missing"),
    "empty loops": (("loops",), {}, "loops.fit_loop is missing"),
    "loops that are a list": (("loops",), [], "loops is a list"),
    "no batches": ((*FIT, "epoch_loop.batch_progress"), GONE, "epoch_loop.batch_progress.total.ready is missing"),
    "an epoch that is a text": ((*FIT, "epoch_progress", "current", "ready"), "x", "epoch_progress.current.ready"),
    "a negative epoch": ((*FIT, "epoch_progress", "total", "processed"), -3, "epoch_progress.total.processed"),
    "no epoch": (("epoch",), GONE, "epoch = missing is no number"),
    "a step that is a text": (("global_step",), "7", "global_step = '7' is no number"),
    "a step that is a list": (("global_step",), [7], "global_step = a list is no number"),
    "no schedule": (("lr_schedulers",), [], "lr_schedulers is empty"),
    "a schedule that is nothing": (("lr_schedulers",), None, "lr_schedulers is missing"),
    "a schedule's step": (("lr_schedulers", 0, "last_epoch"), "x", r"lr_schedulers\[0\].last_epoch"),
    "a version that is none": (("pytorch-lightning_version",), 7, "pytorch-lightning_version is 7"),
    "no callbacks": (("callbacks",), GONE, "callbacks is missing"),
    "callbacks in a list": (("callbacks",), [], "callbacks is a list"),
    "a callback that is a text": (("callbacks", MODEL_CHECKPOINT), "x", "callbacks..* is 'x'"),
}


@pytest.fixture(scope="module")
def whole():
    return torch.load(RUN / "checkpoints" / "step_00000002.ckpt", weights_only=True)


def altered(whole, path, value):
    content = copy.deepcopy(whole)
    *above, last = path
    at = content
    for key in above:
        at = at[key]
    if last is MODEL_CHECKPOINT:
        last = next(iter(at))
    if value is GONE:
        del at[last]
    else:
        at[last] = value
    return content


def test_a_whole_one_passes(whole):
    check_state(whole, "x.ckpt")
    check_state(whole, "x.ckpt", outlines(whole))


@pytest.mark.parametrize("case", CASES)
def test_altered(case, whole):
    path, value, message = CASES[case]
    with pytest.raises(CheckpointError, match=rf"^checkpoint x\.ckpt: .*{message}.*give another one"):
        check_state(altered(whole, path, value), "x.ckpt")


SILENT = {
    "a momentum": (("optimizer_states", 0, "state", 3), GONE),
    "a weight": (("state_dict", WEIGHT), GONE),
    "an additional weight": (("state_dict", "model.x"), torch.ones(1)),
    "a weight's shape": (("state_dict", WEIGHT), torch.ones(3)),
    "a weight's type": (("state_dict", WEIGHT), torch.ones(2, 3, 3, 3, dtype=torch.float64)),
    "a callback's entry": (("callbacks", MODEL_CHECKPOINT), {}),
    "a loop": (("loops", "validate_loop"), GONE),
    "a schedule": (("lr_schedulers", 0, "base_lrs"), [1.0, 2.0, 3.0]),
}


@pytest.mark.parametrize("case", SILENT)
def test_what_only_the_outline_shows(case, whole):
    content = altered(whole, *SILENT[case])
    with pytest.raises(CheckpointError, match=rf"{SILENT[case][0][0]} has other entries, or of other shapes"):
        check_state(content, "x.ckpt", outlines(whole))
    with pytest.raises(CheckpointError, match="other entries"):
        check_state(whole, "x.ckpt", {**outlines(whole), SILENT[case][0][0]: 7})
    with pytest.raises(CheckpointError, match="other entries"):
        check_state(whole, "x.ckpt", "x")


COMMAND = {
    "an empty optimiser": CASES["an empty optimiser"][:2],
    "facts": (("robustseg_run", "facts", "ranks"), "x"),
    "no facts": (("robustseg_run", "facts"), {}),
    "settings": (("robustseg_run", "settings"), [1]),
    "the place in the data": (("SyntheticScenes",), "x"),
    "a weight that is NaN": (("state_dict", WEIGHT), NAN),
}


@pytest.mark.parametrize(
    "case", [next(iter(COMMAND)), *(pytest.param(k, marks=pytest.mark.slow) for k in [*COMMAND][1:])]
)
def test_the_command_says_it_in_one_line(case, whole, tmp_path, capsys):
    path = tmp_path / "altered.ckpt"
    torch.save(altered(whole, *COMMAND[case]), path)
    root = ("--trainer.default_root_dir", str(tmp_path / "runs"))
    assert main(["train", "--config", str(RUN / "config.yaml"), "--ckpt_path", str(path), *root]) == 1
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "error" in each]
    assert "altered.ckpt" in line or "checkpoint" in line
    assert not list(tmp_path.glob("runs/**/*.ckpt"))
