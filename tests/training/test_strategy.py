"""What is refused on several devices, and that ranks may attack for different numbers of steps."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn

from robustseg.attacks import PGD, Attack
from robustseg.callbacks.averaging import EMA
from robustseg.training import RobustSegmentation, TrainingError
from robustseg.training.strategy import check_strategy
from robustseg.types import Batch
from tests.helpers.nets import ToyNetwork, toy_batch
from tests.helpers.paths import ROOT
from tests.training.ddp_worker import OneBatch, Recorder, merged


def trainer(**arguments):
    settings = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "logger": False, "enable_checkpointing": False}
    return pl.Trainer(**(settings | arguments))


def module(**arguments):
    return RobustSegmentation(ToyNetwork(), attack=PGD(steps=1), **arguments)


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_sharded_models_are_refused(strategy):
    run = trainer()
    run._accelerator_connector.strategy = strategy.__new__(strategy)  # Lightning itself wants GPUs for them
    with pytest.raises(TrainingError, match=rf"trainer.strategy is {strategy.__name__}: .*collectives.*use ddp, fsdp2"):
        check_strategy(run, module(), 8)


def test_fsdp2_is_for_several_processes():
    with pytest.raises(TrainingError, match=r"fsdp2 and there is one process.*trainer.devices to 2 or more"):
        check_strategy(trainer(strategy="fsdp2", devices=1), module(), 8)
    assert check_strategy(trainer(strategy="fsdp2"), module(), 8) == []
    assert check_strategy(trainer(strategy="fsdp2", precision="bf16-mixed"), module(), 8) == []


def test_fsdp2_without_a_command_line_is_refused_as_well():
    with pytest.raises(TrainingError, match=r"there is one process"):
        trainer(strategy="fsdp2", devices=1, max_epochs=1).fit(module(), datamodule=OneBatch(1))
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("average", [EMA(), EMAWeightAveraging(), StochasticWeightAveraging(1e-2)], ids=type)
def test_averages_of_whole_weights_are_refused_where_there_are_parts(average):
    with pytest.raises(TrainingError, match=rf"{type(average).__name__}.*averages whole weights.*strategy ddp"):
        check_strategy(trainer(strategy="fsdp2", callbacks=[average]), module(), 8)


def test_a_scaler_of_gradients_is_refused_where_there_are_parts():
    run = trainer(strategy="fsdp2", plugins=MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu")))
    with pytest.raises(TrainingError, match=r"precision is 16-mixed.*bf16-mixed"):
        check_strategy(run, module(), 8)


def test_a_static_graph_is_refused_where_graphs_change():
    def static(**arguments):
        return trainer(strategy=DDPStrategy(static_graph=True), **arguments)

    assert check_strategy(static(), module(), 8) == []
    with pytest.raises(TrainingError, match=r"static_graph, and model.on_non_finite_loss is skip"):
        check_strategy(static(), module(on_non_finite_loss="skip"), 8)
    with pytest.raises(TrainingError, match=r"static_graph, and trainer.accumulate_grad_batches"):
        check_strategy(static(accumulate_grad_batches=2), module(), 8)


def test_few_images_and_synchronised_batchnorm_are_seen_with_fsdp2_as_well():
    (said,) = check_strategy(trainer(strategy="fsdp2"), module(), 2)
    assert "the 2 images of each process" in said
    with pytest.raises(TrainingError, match=r"model.attack_mode is train .*sync_batchnorm"):
        check_strategy(trainer(strategy="fsdp2", sync_batchnorm=True), module(attack_mode="train"), 8)


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_processes_that_do_not_read_the_command_line_are_refused(start):
    with pytest.raises(TrainingError, match=f"starts its processes by {start}.*use ddp"):
        check_strategy(trainer(strategy=f"ddp_{start}"), module(), 8)


def test_an_attack_in_train_mode_is_refused_where_batchnorm_is_synchronised():
    with pytest.raises(TrainingError, match=r"model.attack_mode is train .*sync_batchnorm.*to eval"):
        check_strategy(trainer(sync_batchnorm=True), module(attack_mode="train"), 8)
    by_hand = module(attack_mode="train")
    by_hand.model = nn.SyncBatchNorm.convert_sync_batchnorm(by_hand.model)
    with pytest.raises(TrainingError, match=r"model.attack_mode is train"):
        check_strategy(trainer(), by_hand, 8)
    assert check_strategy(trainer(sync_batchnorm=True), module(), 8) == []
    assert check_strategy(trainer(sync_batchnorm=True), module(attack_mode="train", adversarial_fraction=0.0), 8) == []
    assert check_strategy(trainer(), module(attack_mode="train"), 8) == []


def test_few_images_for_batchnorm_are_worth_a_word():
    (said,) = check_strategy(trainer(), module(), 2)
    assert "the 2 images of each process" in said
    assert "the 4 of all" in said
    assert check_strategy(trainer(sync_batchnorm=True), module(), 2) == []
    assert check_strategy(trainer(), module(), 4) == []
    assert check_strategy(trainer(devices=1, strategy="auto"), module(), 2) == []
    frozen = module()
    for layer in frozen.modules():
        layer.training = not isinstance(layer, nn.BatchNorm2d)
    assert check_strategy(trainer(), frozen, 2) == []


class UnevenAttack(Attack):
    """One gradient step for images that start with a black pixel, seven for the others: an early exit per image."""

    def __init__(self):
        super().__init__(seed=0)
        self.forwards = 0

    def perturb(self, model, images, targets, noise, on_step):
        wanted = torch.where(images[:, 0, 0, 0] > 0.5, 7, 1)
        images_adv = images.clone()
        for step in range(int(wanted.max())):
            self.forwards += 1
            images_adv.requires_grad_(True)
            logits = model(images_adv)
            loss = nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, images_adv)
            moved = (images_adv + 0.005 * gradient.sign()).clamp(0, 1).detach()
            images_adv = torch.where((step < wanted)[:, None, None, None], moved, images_adv.detach())
        return images_adv

    def describe(self):
        return {"attack": "uneven"}


class UnevenBatch(OneBatch):
    def train_dataloader(self):
        parts = [part._replace(images=part.images.clone()) for part in (toy_batch(4, rank, 7) for rank in range(2))]
        for rank, part in enumerate(parts):
            part.images[:, 0, 0, 0] = rank
        batch: Batch = merged(parts) if self.ranks == 1 else parts[self.trainer.global_rank]
        return torch.utils.data.DataLoader([0], collate_fn=lambda _: batch)


def worker(path: str, ranks: int) -> None:
    pl.seed_everything(3, verbose=False)
    attack, recorder = UnevenAttack(), Recorder()
    net = RobustSegmentation(ToyNetwork(7, aux=True), attack=attack)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    strategy = DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto"
    run = trainer(
        devices=ranks, strategy=strategy, callbacks=[recorder], max_epochs=1, limit_val_batches=0, barebones=False,
        use_distributed_sampler=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    run.fit(net, datamodule=UnevenBatch(ranks))
    torch.save((attack.forwards, recorder.gradients), f"{path}{run.global_rank}of{ranks}.pt")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ranks_that_attack_for_one_and_for_seven_steps_update_as_one_process_does(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    worker(f"{tmp_path}/", 1)
    with open(tmp_path / "log", "w") as log:
        command = [sys.executable, "-m", "tests.training.test_strategy", f"{tmp_path}/"]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=150, check=False)
    assert done.returncode == 0, (tmp_path / "log").read_text()[-3000:]
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("0of1", "0of2", "1of2"))
    assert (alone[0], first[0], second[0]) == (7, 1, 7)
    assert any(gradient.abs().max() > 1e-3 for gradient in alone[1])
    for whole, one, two in zip(alone[1], first[1], second[1], strict=True):
        torch.testing.assert_close(whole, one, rtol=1e-5, atol=1e-7)
        assert torch.equal(one, two)


if __name__ == "__main__":
    torch.set_num_threads(1)
    worker(sys.argv[1], 2)
