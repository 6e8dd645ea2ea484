"""A batch whose loss is not finite, left out by all ranks: as if it had never been there."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from robustseg.attacks import PGD
from robustseg.training import RobustSegmentation, TrainingError
from robustseg.training.non_finite import LIMIT, NonFiniteLoss
from tests.helpers.nets import ToyNetwork, toy_batch
from tests.helpers.paths import ROOT

POISONED, POISONED_CLEAN = -1, -2
"""A batch whose last image, which is attacked, or first image, which is not, the network cannot digest."""


class Fragile(ToyNetwork):
    """Makes NaN, which reach the statistics of BatchNorm, of an image whose top row is of one colour."""

    def forward_with_aux(self, x):
        plain = x[:, :, 0].std(dim=2).amax(1) < 1e-6
        return super().forward_with_aux(torch.where(plain[:, None, None, None], torch.nan, x))


def batch_of(number, rank=0, poisoned_rank=0):
    batch = toy_batch(4, seed=10 * abs(number) + rank, num_classes=7)
    if number in (POISONED, POISONED_CLEAN) and rank == poisoned_rank:
        batch.images[-1 if number == POISONED else 0, :, 0] = 0.5
    return batch


def fit(folder, numbers, rank=0, poisoned_rank=0, attack=None, policy="skip", seed=0, **arguments):
    """Weights, buffers, state of the optimiser and logged figures after one epoch of these batches."""
    torch.manual_seed(seed)
    net = RobustSegmentation(
        Fragile(7),
        attack=attack,
        schedule="constant",
        on_non_finite_loss=policy,
        optimizer=lambda params: torch.optim.AdamW(params, lr=0.1, weight_decay=0.1),
    )
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        **arguments,
    )
    here = rank if rank is not None else trainer.global_rank
    loader = DataLoader(range(len(numbers)), collate_fn=lambda index: batch_of(numbers[index[0]], here, poisoned_rank))
    trainer.fit(net, loader)
    state = copy.deepcopy(trainer.optimizers[0].state_dict()["state"])
    figures = {name: value.clone() for name, value in trainer.callback_metrics.items()}
    return net.model.state_dict(), state, figures, trainer


def assert_same(first, second):
    for name, value in first[0].items():
        assert torch.equal(value, second[0][name]), name
    for one, two in zip(first[1].values(), second[1].values(), strict=True):
        for name, value in one.items():
            assert torch.equal(value, two[name]), name


@pytest.mark.parametrize(
    "arguments", [{}, {"precision": "bf16-mixed"}, {"gradient_clip_val": 0.1}], ids=["fp32", "bf16", "clipped"]
)
def test_a_batch_that_is_left_out_leaves_no_trace(tmp_path, arguments, capfd):
    poisoned = fit(tmp_path, [1, POISONED, 2], **arguments)
    assert_same(poisoned, fit(tmp_path, [1, 2], **arguments))
    assert poisoned[2]["train/skipped"] == 1
    assert poisoned[3].global_step == 3  # it counts as a step, for the schedule and the checkpoints
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("robustseg: ")]
    assert len(said) == 1
    assert "loss is nan at step 1 for the samples sample-10-0, sample-10-1" in said[0]


@pytest.mark.parametrize(
    ("bad", "words"),
    [(POISONED, "step 1, samples sample-10-2, sample-10-3: "), (POISONED_CLEAN, "the loss is nan at step 1 for the ")],
    ids=["attacked", "clean"],
)
def test_the_attack_or_the_update_may_meet_it_first(tmp_path, capfd, bad, words):
    attack = PGD(steps=2, random_start=False)
    assert_same(fit(tmp_path, [1, bad, 2], attack=attack), fit(tmp_path, [1, 2], attack=attack))
    (said,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("robustseg: ")]
    assert words in said


def test_of_accumulated_batches_it_has_no_share(tmp_path):
    """Two batches per update: the gradient is half of the good one's; an update of two bad ones is none."""
    gradients = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            gradients.append([p.grad.clone() for p in pl_module.model.parameters()])

    fit(tmp_path, [1, POISONED], accumulate_grad_batches=2, callbacks=[Watch()])
    fit(tmp_path, [1], callbacks=[Watch()])
    for half, whole in zip(*gradients, strict=True):
        torch.testing.assert_close(half, whole / 2)
    assert_same(
        fit(tmp_path, [1, 2, POISONED, POISONED, 3, 4], accumulate_grad_batches=2),
        fit(tmp_path, [1, 2, 3, 4], accumulate_grad_batches=2),
    )


def test_many_in_a_row_stop_and_a_good_one_between_starts_anew(tmp_path):
    mostly = [POISONED] * LIMIT + [1] + [POISONED] * LIMIT
    assert fit(tmp_path, mostly)[2]["train/skipped"] == 2 * LIMIT
    with pytest.raises(TrainingError, match=rf"number {LIMIT + 1} in a row.*--ckpt_path last"):
        fit(tmp_path, [POISONED] * (LIMIT + 1))


def test_stopping_is_the_default_and_other_words_are_refused(tmp_path):
    assert RobustSegmentation(ToyNetwork(7)).non_finite.policy == "stop"
    with pytest.raises(TrainingError, match="loss is nan at step 1"):
        fit(tmp_path, [1, POISONED, 2], policy="stop")
    with pytest.raises(ValueError, match="on_non_finite_loss = 'ignore': use stop or skip"):
        NonFiniteLoss("ignore")


def worker(folder: str) -> None:
    """On each of two ranks: only the second one's batch is bad."""
    from pytorch_lightning.strategies import DDPStrategy

    torch.set_num_threads(1)

    def both(numbers, **arguments):
        strategy = DDPStrategy(process_group_backend="gloo")
        return fit(folder, numbers, rank=None, poisoned_rank=1, strategy=strategy, devices=2, **arguments)

    for arguments in ({"precision": "bf16-mixed"}, {"attack": PGD(steps=2, random_start=False)}):
        assert_same(both([1, POISONED, 2], **arguments), both([1, 2], **arguments))
    accumulated = {"accumulate_grad_batches": 2}
    assert_same(both([1, 2, POISONED, POISONED, 3, POISONED], **accumulated), both([1, 2, 3, POISONED], **accumulated))
    result = both([1, POISONED, 2])
    torch.save((result[0], result[2]["train/skipped"]), Path(folder) / f"rank{result[3].global_rank}.pt")


@pytest.mark.slow
def test_two_ranks_leave_it_out_together(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "tests.training.test_non_finite", str(tmp_path)]
    with open(tmp_path / "log", "w") as log:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=120, check=False, start_new_session=True
        )
    assert done.returncode == 0, (tmp_path / "log").read_text()[-3000:]
    (first, skipped), (second, _) = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert skipped == 1
    for name, parameter in first.items():
        if "running" not in name and "tracked" not in name:  # of BatchNorm each rank has its own until the next step
            assert torch.equal(parameter, second[name]), name


if __name__ == "__main__":
    worker(sys.argv[1])
