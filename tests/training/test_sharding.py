"""FSDP2: what two sharded ranks train is what DDP trains, and each keeps its part only."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from robustseg.training.sharding import ShardedStrategy, is_sharded, own_part, whole
from tests.helpers.paths import ROOT
from tests.resume.runs import unlike

CASES = {"fsdp2": "ddp", "units": "ddp", "low_units": "low_ddp"}
"""Strategy of DDP that each is compared with."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of each strategy: what both ranks saw, and the checkpoint."""
    folder = tmp_path_factory.mktemp("sharding")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    found = {}
    for name in (*dict.fromkeys(CASES.values()), *CASES):
        with open(folder / "log", "w") as log:  # a file, since orphaned ranks would hold a pipe open
            command = [sys.executable, "-m", "tests.training.sharding_worker", str(folder), name]
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=240, check=False)
        assert done.returncode == 0, (folder / "log").read_text()[-3000:]
        ranks = [torch.load(folder / f"{name}{rank}.pt", weights_only=True) for rank in range(2)]
        found[name] = (*ranks, torch.load(folder / f"{name}.ckpt", weights_only=True))
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CASES)
def test_sharded_ranks_train_as_those_of_ddp_and_write_the_same_file(runs, name):
    """Ranks attack for one and for three steps, start from other weights, and one's loss is not finite once."""
    (first, second, checkpoint), (ddp, _, expected) = runs[name], runs[CASES[name]]
    assert list(checkpoint["state_dict"]) == list(expected["state_dict"])
    assert unlike(checkpoint, expected) == []
    assert {"val/miou", "val/pgd2/miou", "train/loss"} <= set(first["figures"])
    assert first["figures"] == ddp["figures"]
    assert first["skipped"] == second["skipped"] == ddp["skipped"] == 1
    # afterwards the model is the plain one again, with the trained weights, on both ranks
    assert first["class"] == "SegmentationModel"
    for rank in (first, second):
        trained = {key.removeprefix("model."): value for key, value in checkpoint["state_dict"].items()}
        assert unlike(rank["model"], trained) == []
    weights, optimiser = (sum(shares) for shares in zip(first["shares"], second["shares"], strict=True))
    assert (weights, optimiser) == (1, 1)
    assert max(first["shares"] + second["shares"]) < 0.6
    assert ddp["shares"] == [1, 1]


def test_what_is_not_sharded_stays_as_it_is():
    net, tensor = nn.Linear(2, 2), torch.ones(2)
    assert not is_sharded(net)
    assert own_part(tensor) is tensor
    assert whole({"a": [tensor, (1, "b")]}) == {"a": [tensor, (1, "b")]}


def test_a_unit_has_weights():
    with pytest.raises(ValueError, match=r"unit_size = 0: use 1 or more"):
        ShardedStrategy(unit_size=0)
